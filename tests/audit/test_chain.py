"""That a log cannot be changed unseen: by the server, whose rights end there, or by its operator, who is found out."""

import asyncio
import uuid
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from aiworkspace.v1 import workspace_pb2
from aiworkspace_server.audit import store
from aiworkspace_server.audit.build import make_chain
from aiworkspace_server.audit.models import AuditEvent
from aiworkspace_server.kit.postgres import APP_ROLE, ReadSession
from aiworkspace_server.settings import Settings
from tests.audit.conftest import Company
from tests.support.audit_log import Log
from tests.support.outcomes import OK, outcomes
from tests.support.people import NewPerson, make_org, make_workspace
from tests.support.postgres import as_owner, sql
from tests.support.stores import Stores

ENTRIES = 7

# For each column something else than it holds.
CHANGES = {
    "chain_id": "gen_random_uuid()",
    "sequence": "sequence + 100",
    "create_time": "create_time + interval '1 ms'",
    "method": "'OrgService/GetOrg'",
    "user_id": "gen_random_uuid()",
    "session_id": "NULL",
    "api_key_id": "gen_random_uuid()",
    "role": "'viewer'",
    "address": "'10.0.0.1'",
    "user_agent": "user_agent || '.'",
    "request_id": "'other'",
    "resources": 'resources || \'{"org_id": "none"}\'',
    "code": "'NOT_FOUND'",
    "reason": "'OTHER'",
    "hash": "sha256(hash)",
}


@pytest.fixture
async def log(company: Company) -> Company:
    """An organization with seven entries."""
    for _ in range(ENTRIES - 1):
        await make_workspace(company.owner, company.org_id)
    verified = await company.log.verify()
    assert (verified.valid, verified.broken_sequence, verified.problem) == (True, 0, "")
    assert (verified.sequence, verified.hash) == (ENTRIES, (await company.log.events())[0].hash)
    return company


def test_every_column_has_a_change() -> None:
    assert {column.name for column in AuditEvent.__table__.columns} == set(CHANGES)


@pytest.mark.parametrize("column", CHANGES)
@pytest.mark.parametrize("sequence", [1, 4, ENTRIES])
async def test_a_changed_entry_is_found(log: Company, stores: Stores, column: str, sequence: int) -> None:
    change = f"UPDATE audit_events SET {column} = {CHANGES[column]} WHERE chain_id = %s AND sequence = %s"
    await sql(stores, change, log.org_id, sequence)
    assert await _broken(log) == sequence


@pytest.mark.parametrize("change", ["address = '10.0.0.1'", "user_agent = user_agent || '.'", "salt = '\\x00'"])
async def test_a_changed_origin_is_found(log: Company, stores: Stores, change: str) -> None:
    await sql(stores, f"UPDATE audit_origins SET {change} WHERE chain_id = %s AND sequence = 4", log.org_id)
    assert await _broken(log) == 4


async def test_an_erased_origin_leaves_the_log_as_it_was(log: Company, stores: Stores) -> None:
    before = await log.log.verify()
    kept = (await log.log.events())[-1]
    assert (kept.address, kept.user_agent.startswith("grpc")) == ("127.0.0.1", True)
    await sql(stores, "DELETE FROM audit_origins WHERE chain_id = %s", log.org_id)
    assert await log.log.verify(before.sequence, before.hash) == before
    for event in await log.log.events():
        assert (event.address, event.user_agent) == ("", "")
    await make_workspace(log.owner, log.org_id)
    assert (await log.log.verify()).valid


async def test_the_same_address_has_another_digest_in_each_entry(log: Company, stores: Stores) -> None:
    found = await sql(stores, "SELECT address, user_agent FROM audit_events WHERE chain_id = %s", log.org_id)
    digests = {digest for row in found for digest in row}
    assert len(digests) == 2 * ENTRIES
    assert {digest.partition(":")[0] for digest in digests} == {"hmac-sha256"}


async def test_entries_of_earlier_releases_keep_their_origin(log: Company, stores: Stores, settings: Settings) -> None:
    """They have address and user agent themselves, and their hashes are of these."""
    chain = make_chain(settings)
    (head,) = await sql(stores, "SELECT sequence, hash FROM audit_heads WHERE chain_id = %s", log.org_id)
    columns = ", ".join(name for name in CHANGES if name != "hash")
    (row,) = await sql(
        stores, f"SELECT {columns} FROM audit_events WHERE chain_id = %s AND sequence = %s", log.org_id, ENTRIES
    )
    entry = dict(zip((name for name in CHANGES if name != "hash"), row, strict=True))
    entry |= {"sequence": head[0] + 1, "address": "192.0.2.7", "user_agent": "old/1"}
    entry["hash"] = chain.hash(bytes(head[1]), entry)
    values = [Jsonb(value) if isinstance(value, dict) else value for value in entry.values()]
    places = ", ".join(["%s"] * len(entry))
    await sql(stores, f"INSERT INTO audit_events ({', '.join(entry)}) VALUES ({places})", *values)
    ids = "INSERT INTO audit_resources SELECT chain_id, %s, resource_id FROM audit_resources"
    await sql(stores, f"{ids} WHERE chain_id = %s AND sequence = %s", head[0] + 1, log.org_id, ENTRIES)
    moved = "UPDATE audit_heads SET sequence = %s, hash = %s WHERE chain_id = %s"
    await sql(stores, moved, head[0] + 1, entry["hash"], log.org_id)
    newest = (await log.log.events())[0]
    assert (newest.address, newest.user_agent) == ("192.0.2.7", "old/1")
    assert (await log.log.verify()).valid


@pytest.mark.parametrize("sequence", [1, 4, ENTRIES])
async def test_a_missing_entry_is_found(log: Company, stores: Stores, sequence: int) -> None:
    await sql(stores, "DELETE FROM audit_events WHERE chain_id = %s AND sequence = %s", log.org_id, sequence)
    assert await _broken(log) == sequence


async def test_a_gap_that_was_closed_is_found(log: Company, stores: Stores) -> None:
    await sql(stores, "DELETE FROM audit_events WHERE chain_id = %s AND sequence = 4", log.org_id)
    for sequence in (5, 6, 7):
        move = "UPDATE audit_events SET sequence = sequence - 1 WHERE chain_id = %s AND sequence = %s"
        await sql(stores, move, log.org_id, sequence)
    await sql(stores, "UPDATE audit_heads SET sequence = 6 WHERE chain_id = %s", log.org_id)
    assert await _broken(log) == 4


async def test_two_entries_that_changed_places_are_found(log: Company, stores: Stores) -> None:
    for old, new in ((3, 103), (5, 3), (103, 5)):
        move = "UPDATE audit_events SET sequence = %s WHERE chain_id = %s AND sequence = %s"
        await sql(stores, move, new, log.org_id, old)
    assert await _broken(log) == 3


@pytest.mark.parametrize(("sequence", "broken"), [(ENTRIES + 1, ENTRIES + 1), (0, 1), (-3, 1)])
async def test_an_added_entry_is_found(log: Company, stores: Stores, sequence: int, broken: int) -> None:
    await _copy(stores, log.org_id, ENTRIES, sequence)
    assert await _broken(log) == broken


async def test_an_added_entry_that_the_head_knows_of_is_found(log: Company, stores: Stores) -> None:
    await _copy(stores, log.org_id, ENTRIES, ENTRIES + 1)
    await sql(stores, "UPDATE audit_heads SET sequence = %s WHERE chain_id = %s", ENTRIES + 1, log.org_id)
    assert await _broken(log) == ENTRIES + 1


async def test_an_entry_of_another_log_is_found(log: Company, stores: Stores) -> None:
    other = str(uuid.uuid4())
    for table in ("audit_heads", "audit_events", "audit_resources"):
        await sql(stores, f"UPDATE {table} SET chain_id = %s WHERE chain_id = %s", other, log.org_id)
    assert (await log.log.verify()).sequence == 0
    for table in ("audit_heads", "audit_events", "audit_resources"):
        await sql(stores, f"UPDATE {table} SET chain_id = %s WHERE chain_id = %s", log.org_id, other)
    assert await _broken(log) == 0


async def test_a_cut_tail_is_found(log: Company, stores: Stores) -> None:
    await sql(stores, "DELETE FROM audit_events WHERE chain_id = %s AND sequence > 5", log.org_id)
    assert await _broken(log) == 6


async def test_a_cut_tail_with_a_head_that_fits_is_found_by_who_noted_the_end(log: Company, stores: Stores) -> None:
    noted = await log.log.verify()
    await _cut(stores, log.org_id, 5)
    assert (await log.log.verify()).valid, "nothing in the log itself can show that"
    cut = await log.log.verify(noted.sequence, noted.hash)
    assert (cut.valid, cut.broken_sequence) == (False, 6)
    for _ in range(2):
        await make_workspace(log.owner, log.org_id)
    anew = await log.log.verify(noted.sequence, noted.hash)
    assert (anew.valid, anew.broken_sequence, anew.sequence) == (False, 7, 7)


async def test_a_log_that_went_on_still_has_what_was_noted(log: Company) -> None:
    noted = await log.log.verify()
    await make_workspace(log.owner, log.org_id)
    later = await log.log.verify(noted.sequence, noted.hash.upper())
    assert (later.valid, later.sequence) == (True, ENTRIES + 1)


async def test_a_log_that_is_gone_is_found_by_who_noted_its_end(log: Company, stores: Stores) -> None:
    noted = await log.log.verify()
    await sql(stores, "DELETE FROM audit_events WHERE chain_id = %s", log.org_id)
    assert await _broken(log) == 1
    await sql(stores, "DELETE FROM audit_heads WHERE chain_id = %s", log.org_id)
    gone = await log.log.verify(noted.sequence, noted.hash)
    assert (gone.valid, gone.broken_sequence) == (False, 1)


async def test_a_head_that_is_gone_is_found(log: Company, stores: Stores) -> None:
    await sql(stores, "DELETE FROM audit_heads WHERE chain_id = %s", log.org_id)
    assert await _broken(log) == 1


async def test_a_changed_head_is_found(log: Company, stores: Stores) -> None:
    await sql(stores, "UPDATE audit_heads SET hash = sha256(hash) WHERE chain_id = %s", log.org_id)
    assert await _broken(log) == ENTRIES


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM audit_resources WHERE chain_id = %s AND sequence = 4",
        "UPDATE audit_resources SET resource_id = gen_random_uuid() WHERE chain_id = %s AND sequence = 4",
    ],
)
async def test_an_entry_that_is_hidden_from_the_filter_is_found(log: Company, stores: Stores, change: str) -> None:
    await sql(stores, change, log.org_id)
    assert await _broken(log) == 4


async def test_an_organization_whose_log_is_being_verified_holds_up_no_other(
    company: Company, new_person: NewPerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, read = asyncio.Event(), store.list_forward

    async def wait(tx: ReadSession, chain_id: UUID, *rest: Any) -> Any:
        if str(chain_id) == company.org_id:
            await go_on.wait()
        return await read(tx, chain_id, *rest)

    monkeypatch.setattr(store, "list_forward", wait)
    held = [asyncio.ensure_future(company.log.verify()) for _ in range(2)]  # as many as one caller may
    other = await new_person()
    async with asyncio.timeout(60):
        assert (await Log(other, await make_org(other)).verify()).valid
    go_on.set()
    assert [verified.valid for verified in await asyncio.gather(*held)] == [True, True]


async def test_fifty_calls_at_once_leave_one_chain(company: Company) -> None:
    requests = [workspace_pb2.CreateWorkspaceRequest(org_id=company.org_id, name="W") for _ in range(50)]
    assert await outcomes(map(company.owner.workspaces.CreateWorkspace, requests)) == {OK: 50}
    events = await company.log.events()
    assert [event.sequence for event in events] == list(range(51, 0, -1))
    times = [event.create_time.ToNanoseconds() for event in events]
    assert times == sorted(times, reverse=True)
    assert (await company.log.verify()).valid


async def test_times_never_go_back_along_a_log(company: Company, stores: Stores) -> None:
    ahead = "UPDATE audit_heads SET create_time = create_time + interval '1 hour' WHERE chain_id = %s"
    await sql(stores, ahead, company.org_id)
    await make_workspace(company.owner, company.org_id)
    second, first = await company.log.events()
    assert second.create_time.seconds - first.create_time.seconds == 3600


@pytest.mark.parametrize("table", ["audit_events", "audit_resources"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET sequence = 1", "DELETE FROM {}", "TRUNCATE {}"])
async def test_the_server_may_not_change_entries(stores: Stores, table: str, statement: str) -> None:
    async with as_owner(stores) as database:
        await database.execute(f"SET ROLE {APP_ROLE}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await database.execute(statement.format(table).encode())


async def test_without_a_tenant_there_are_no_logs(stores: Stores, company: Company) -> None:
    async with as_owner(stores) as database:
        await database.execute(f"SET ROLE {APP_ROLE}".encode())
        for table in ("audit_events", "audit_resources", "audit_heads", "audit_origins"):
            assert await (await database.execute(f"SELECT 1 FROM {table}".encode())).fetchall() == []


async def _broken(log: Company) -> Any:
    """Number of the first entry that is not as it should be."""
    verified = await log.log.verify()
    assert verified.valid == (verified.broken_sequence == 0) == (verified.problem == "")
    return verified.broken_sequence


async def _copy(stores: Stores, org_id: str, sequence: int, to: int) -> None:
    columns = ", ".join(name for name in CHANGES if name != "sequence")
    copy = f"INSERT INTO audit_events (sequence, {columns}) SELECT %s, {columns} FROM audit_events"
    await sql(stores, f"{copy} WHERE chain_id = %s AND sequence = %s", to, org_id, sequence)


async def _cut(stores: Stores, org_id: str, last: int) -> None:
    """Deletes the entries that follow, and makes the one before the last."""
    for table in ("audit_events", "audit_resources", "audit_origins"):
        await sql(stores, f"DELETE FROM {table} WHERE chain_id = %s AND sequence > %s", org_id, last)
    head = "UPDATE audit_heads h SET sequence = e.sequence, hash = e.hash FROM audit_events e"
    await sql(stores, f"{head} WHERE h.chain_id = %s AND e.chain_id = h.chain_id AND e.sequence = %s", org_id, last)
