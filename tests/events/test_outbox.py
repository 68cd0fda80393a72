"""Events are stored with their change or not at all, with dense numbers, and are kept for thirty days."""

import asyncio
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from aiworkspace.v1 import event_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.events.jobs import Retention
from aiworkspace_server.events.outbox import append
from aiworkspace_server.kit.postgres import set_tenant
from tests.support.events import last_sequence, list_events, told
from tests.support.outcomes import outcome, refusal
from tests.support.pagination import read_all
from tests.support.people import Person, make_org, make_workspace
from tests.support.postgres import sql, until_blocked
from tests.support.staff import Team
from tests.support.stores import Stores

UPDATED = pb.EVENT_TYPE_ORG_UPDATED


async def change(app: App, org_id: str, fail: bool = False) -> None:
    async with app.db.write(UUID(org_id)) as tx:
        append(tx, UPDATED)
        if fail:
            raise ValueError


async def test_fifty_writers_at_once_leave_no_gap(app: App, owner: Person) -> None:
    org_id = await make_org(owner)
    writers = [change(app, org_id, fail=number % 5 == 0) for number in range(50)]
    failed = [each for each in await asyncio.gather(*writers, return_exceptions=True) if each]
    assert [type(error) for error in failed] == [ValueError] * 10
    assert [event.sequence for event in await list_events(owner, org_id)] == list(range(1, 41))


async def test_a_commit_that_fails_takes_no_number(app: App, owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    await sql(stores, "CREATE TABLE once (id uuid UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    await sql(stores, "GRANT INSERT ON once TO aiworkspace_app")

    async def fail() -> None:
        async with app.db.write(UUID(org_id)) as tx:
            append(tx, UPDATED)
            await tx.execute(text("INSERT INTO once SELECT :id FROM generate_series(1, 2)"), {"id": uuid4()})

    with pytest.raises(Exception, match="once_id_key"):
        await fail()
    await sql(stores, "DROP TABLE once")
    await change(app, org_id)
    assert [event.sequence for event in await list_events(owner, org_id)] == [1]


async def test_a_transaction_in_two_organizations_numbers_in_both(app: App, owner: Person) -> None:
    one, other = [await make_org(owner) for _ in range(2)]

    async def in_both(*orgs: str) -> None:
        async with app.db.write(UUID(orgs[0])) as tx:
            append(tx, UPDATED)
            await set_tenant(tx, UUID(orgs[1]))
            append(tx, UPDATED)

    await asyncio.gather(*(in_both(*orgs) for orgs in [(one, other), (other, one)] * 10))
    for org_id in (one, other):
        assert [event.sequence for event in await list_events(owner, org_id)] == list(range(1, 21))


async def test_numbering_waits_only_at_the_end_of_a_transaction(app: App, owner: Person, stores: Stores) -> None:
    org_id, go = await make_org(owner), asyncio.Event()

    async def slow() -> None:
        async with app.db.write(UUID(org_id)) as tx:
            append(tx, UPDATED)
            await go.wait()

    working = asyncio.create_task(slow())
    await change(app, org_id)
    assert len(await list_events(owner, org_id)) == 1
    go.set()
    await working
    assert len(await list_events(owner, org_id)) == 2


async def test_readers_wait_for_no_writer(app: App, owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    await change(app, org_id)
    async with app.db.write(UUID(org_id)) as tx:
        await tx.execute(text("SELECT FROM event_heads FOR UPDATE"))
        waiting = asyncio.create_task(change(app, org_id))
        await until_blocked(stores, waiting)
        assert len(await list_events(owner, org_id)) == 1
    await waiting
    assert len(await list_events(owner, org_id)) == 2


# Reading


async def test_pages_add_up_to_all_events(app: App, owner: Person) -> None:
    org_id = await make_org(owner)
    for _ in range(7):
        await change(app, org_id)
    found = await read_all(owner.events.ListEvents, pb.ListEventsRequest(org_id=org_id), "events", 3)
    assert [event.sequence for event in found] == [1, 2, 3, 4, 5, 6, 7]
    assert [event.sequence for event in await list_events(owner, org_id, 5)] == [6, 7]
    assert await list_events(owner, org_id, 7) == []
    assert await last_sequence(owner, org_id) == 7


async def test_a_number_that_does_not_exist_yet_is_refused(app: App, owner: Person) -> None:
    org_id = await make_org(owner)
    await change(app, org_id)
    assert await outcome(list_events(owner, org_id, 2)) == "OUT_OF_RANGE SEQUENCE_AHEAD"


async def test_members_without_the_permission_read_no_events(team: Team) -> None:
    for person in (team.member, team.viewer):
        assert await outcome(told(person, team.org_id)) == "PERMISSION_DENIED PERMISSION_MISSING"
    assert await told(team.admin, team.org_id)


# Retention


async def age(stores: Stores, org_id: str, up_to: int) -> None:
    past = "UPDATE events SET create_time = now() - interval '31 days' WHERE org_id = %s AND sequence <= %s"
    await sql(stores, past, org_id, up_to)


async def test_old_events_are_deleted_and_asking_for_them_is_refused(app: App, owner: Person, stores: Stores) -> None:
    org_id, kept = await make_org(owner), await make_org(owner)
    for _ in range(5):
        await change(app, org_id)
        await change(app, kept)
    await age(stores, org_id, 3)
    await Retention(app.db).purge()
    assert [event.sequence for event in await list_events(owner, org_id)] == [4, 5]
    assert len(await list_events(owner, kept)) == 5
    assert [event.sequence for event in await list_events(owner, org_id, 3)] == [4, 5]
    refused = await refusal(list_events(owner, org_id, 2))
    assert refused
    assert (refused.code, refused.reason) == ("OUT_OF_RANGE", "EVENTS_DELETED")
    assert refused.metadata["oldest_sequence"] == "4"


async def test_numbers_go_on_after_all_events_were_deleted(app: App, owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    for _ in range(3):
        await change(app, org_id)
    await age(stores, org_id, 3)
    await Retention(app.db).purge()
    assert (await list_events(owner, org_id), await last_sequence(owner, org_id)) == ([], 3)
    assert await list_events(owner, org_id, 3) == []
    assert await outcome(list_events(owner, org_id, 1)) == "OUT_OF_RANGE EVENTS_DELETED"
    await change(app, org_id)
    assert [event.sequence for event in await list_events(owner, org_id)] == [4]


async def test_what_is_kept_has_no_gap_although_clocks_differ(app: App, owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    for _ in range(4):
        await change(app, org_id)
    await age(stores, org_id, 3)
    await sql(stores, "UPDATE events SET create_time = now() WHERE org_id = %s AND sequence = 2", org_id)
    await Retention(app.db).purge()
    assert [event.sequence for event in await list_events(owner, org_id)] == [4]


async def test_more_events_than_one_batch_are_deleted(app: App, owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    await make_workspace(owner, org_id)
    many = """
      INSERT INTO events SELECT org_id, n, gen_random_uuid(), type, create_time, resources
      FROM events, generate_series(2, 2500) n WHERE org_id = %s
    """
    await sql(stores, many, org_id)
    await sql(stores, "UPDATE event_heads SET sequence = 2500 WHERE org_id = %s", org_id)
    await age(stores, org_id, 2499)
    await Retention(app.db).purge()
    assert [event.sequence for event in await list_events(owner, org_id)] == [2500]
