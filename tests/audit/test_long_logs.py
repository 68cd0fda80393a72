"""Logs of thousands of entries: whoever verifies one, or reads its longest page, slows nobody."""

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

import grpc
import orjson
import pytest

from aiworkspace_server.audit.models import AuditEvent
from aiworkspace_server.audit.service import Chain, resource_ids
from aiworkspace_server.kit.keys import derive
from aiworkspace_server.settings import Settings
from tests.audit.conftest import Company
from tests.support.loop_time import watching_loop
from tests.support.people import Person, make_org
from tests.support.postgres import as_owner, sql
from tests.support.stores import Stores

ENTRIES = 3000
MOST_SECONDS = 0.05  # of the loop for a batch, on a machine that others slow down; all entries take five times as long
COLUMNS = [column.name for column in AuditEvent.__table__.columns]


async def lengthen(stores: Stores, settings: Settings, org_id: str, user_id: str) -> None:
    """Continues a log of one entry, as the server would."""
    chain, chain_id = Chain(derive(settings.password_pepper.get_secret_value(), "audit")), uuid.UUID(org_id)
    async with as_owner(stores) as owner, owner.transaction():
        cursor = await owner.execute("SELECT hash FROM audit_heads WHERE chain_id = %s", (org_id,))
        (before,) = (await cursor.fetchone()) or (b"",)
        entries = []
        for sequence in range(2, ENTRIES + 1):
            entry: dict[str, Any] = dict.fromkeys(COLUMNS, "") | {
                "chain_id": chain_id,
                "sequence": sequence,
                "create_time": datetime(2030, 1, 1, tzinfo=UTC),
                "method": "WorkspaceService/CreateWorkspace",
                "user_id": uuid.UUID(user_id),
                "session_id": uuid.uuid4(),
                "api_key_id": None,
                "user_agent": "x" * 200,
                "resources": {"org_id": org_id, "workspace_id": str(uuid.uuid4())},
            }
            before = entry["hash"] = chain.hash(before, entry)
            entries.append(entry)
        async with owner.cursor() as cursor:
            values = [[_value(entry[name]) for name in COLUMNS] for entry in entries]
            places = ", ".join(["%s"] * len(COLUMNS))
            await cursor.executemany(
                f"INSERT INTO audit_events ({', '.join(COLUMNS)}) VALUES ({places})".encode(), values
            )
            resources = [
                (org_id, entry["sequence"], id) for entry in entries for id in resource_ids(entry["resources"])
            ]
            await cursor.executemany("INSERT INTO audit_resources VALUES (%s, %s, %s)", resources)
            head = "UPDATE audit_heads SET sequence = %s, create_time = %s, hash = %s WHERE chain_id = %s"
            await cursor.execute(head, (ENTRIES, entry["create_time"], before, org_id))


def _value(value: Any) -> Any:
    return orjson.dumps(value).decode() if isinstance(value, dict) else value


@pytest.fixture(scope="module")
async def long(owner: Person, stores: Stores, settings: Settings) -> Company:
    company = Company(owner, await make_org(owner))
    await lengthen(stores, settings, company.org_id, company.owner.user_id)
    return company


async def test_verifying_holds_the_loop_for_one_batch_at_a_time(long: Company) -> None:
    await long.log.verify()  # what is done once is done
    with watching_loop() as loop:
        verified = await long.log.verify()
    assert (verified.valid, verified.sequence) == (True, ENTRIES)
    assert loop.longest < MOST_SECONDS, loop.what


async def test_a_person_verifies_two_logs_at_the_same_time(long: Company) -> None:
    ended = await asyncio.gather(*(long.log.verify() for _ in range(6)), return_exceptions=True)
    refused = [error for error in ended if isinstance(error, grpc.aio.AioRpcError)]
    assert len(refused) == 4
    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert (await long.log.verify()).valid


async def test_the_longest_page_of_a_log_holds_the_loop_shortly(long: Company) -> None:
    await long.log.events()
    with watching_loop() as loop:
        assert len(await long.log.events()) == 1000
    assert loop.longest < 0.05, loop.what


async def test_a_long_log_is_verified_to_its_end(long: Company, stores: Stores) -> None:
    change = "UPDATE audit_events SET role = %s WHERE chain_id = %s AND sequence = 1001"  # after more than two batches
    await sql(stores, change, "x", long.org_id)
    verified = await long.log.verify()
    assert (verified.valid, verified.broken_sequence) == (False, 1001)
    await sql(stores, change, "", long.org_id)
    verified = await long.log.verify()
    assert (verified.valid, verified.sequence) == (True, ENTRIES)
