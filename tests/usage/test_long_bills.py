"""The longest bills, and the longest pages of the ledger: they hold the event loop shortly."""

from datetime import timedelta
from uuid import uuid4

import pytest

from aiworkspace.v1 import common_pb2
from aiworkspace.v1 import usage_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.kit.timestamps import now, timestamp
from aiworkspace_server.llm.base import TokenUsage
from aiworkspace_server.llm.prices import price
from tests.support.budgets import reserve, settle, spender
from tests.support.loop_time import watching_loop
from tests.support.people import NewPerson, Place, new_place
from tests.support.postgres import sql
from tests.support.stores import Stores

MOST_SECONDS = 0.05
REQUESTS, UNBILLED = 1000, 9000
MODEL = "openai/gpt-4o-mini"
# As often as there are new ids, what the ledger has of one run.
_CLAIMS = """
INSERT INTO run_claims
SELECT (jsonb_populate_record(one, jsonb_build_object('run_id', run, 'conversation_id', gen_random_uuid()))).*
FROM run_claims one, unnest(%s::uuid[]) run WHERE one.run_id = %s
"""
_ENTRIES = """
INSERT INTO ledger_entries
SELECT (jsonb_populate_record(one, jsonb_build_object('run_id', run, 'id', gen_random_uuid()))).*
FROM ledger_entries one, unnest(%s::uuid[]) run WHERE one.run_id = %s
"""


@pytest.fixture
async def place(new_person: NewPerson) -> Place:
    return await new_place(new_person)


@pytest.fixture
async def runs(place: Place, app: App, stores: Stores) -> list[str]:
    """Ids of runs that the ledger has, as many as a complete bill may leave out and a call may have."""
    who = spender(place)
    usage = TokenUsage(100, 0, 0, 20, 0)
    await reserve(app, who, 10**6, 1, MODEL, own_key=True)
    await settle(app, who, price(MODEL, usage).nanos, 1, usage)
    runs = [str(uuid4()) for _ in range(REQUESTS + UNBILLED - 1)]
    for statement in (_CLAIMS, _ENTRIES):
        await sql(stores, statement, runs, str(who.run_id))
    return [str(who.run_id), *runs]


@pytest.mark.parametrize("dry_run", [True, False], ids=["compared", "written"])
async def test_the_longest_bill_holds_the_loop_shortly(place: Place, runs: list[str], dry_run: bool) -> None:
    tokens = common_pb2.TokenUsage(input_tokens=101, output_tokens=20)
    many = REQUESTS if dry_run else REQUESTS // 10
    billed = [pb.BilledRequest(run_id=run, attempt=1, tokens=tokens) for run in runs[:many]]
    time = {"start_time": timestamp(now() - timedelta(hours=1)), "end_time": timestamp(now() + timedelta(hours=1))}
    request = pb.ReconcileUsageRequest(org_id=place.org_id, provider="openai", requests=billed, dry_run=dry_run)
    if dry_run:
        request.complete = True
        for name, value in time.items():
            getattr(request, name).CopyFrom(value)
    with watching_loop() as loop:
        response = await place.owner.usage.ReconcileUsage(request)
    assert len(response.requests) == (REQUESTS + UNBILLED if dry_run else many)
    assert loop.longest < MOST_SECONDS, (loop.longest, loop.what)


async def test_the_longest_pages_of_the_ledger_hold_the_loop_shortly(place: Place, runs: list[str]) -> None:
    entries = pb.ListUsageEntriesRequest(org_id=place.org_id, page_size=1000)
    with watching_loop() as loop:
        assert len((await place.owner.usage.ListUsageEntries(entries)).entries) == 1000
    assert loop.longest < MOST_SECONDS, (loop.longest, loop.what)
