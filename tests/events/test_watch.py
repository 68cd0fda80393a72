"""Watching events: none is left out and none repeated, whichever server appends them and whichever is watched."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from aiworkspace.v1 import event_pb2 as pb
from aiworkspace.v1 import org_pb2
from aiworkspace_client import AsyncClient, errors
from aiworkspace_server.app import App, running
from aiworkspace_server.events.jobs import Retention
from aiworkspace_server.events.outbox import append
from aiworkspace_server.settings import Settings
from tests.support.events import watch
from tests.support.orgs import update_member
from tests.support.outcomes import outcome, refusal
from tests.support.people import NewPerson, Person, join, make_org, people, reconnected
from tests.support.postgres import sql
from tests.support.settings import store_settings
from tests.support.stores import Stores, other_databases

COUNT = 60


@pytest.fixture(scope="module")
async def shared(stores: Stores) -> Stores:
    """Databases for several servers."""
    return await other_databases(stores, "watchers")


@pytest.fixture(scope="module")
def values(shared: Stores, stores: Stores) -> Settings:
    return Settings.model_validate(store_settings(shared) | {"redis_url": stores.redis})


@pytest.fixture(scope="module")
async def servers(values: Settings) -> AsyncIterator[list[App]]:
    async with running(values, migrating=True) as one, running(values, migrating=False) as other:
        yield [one, other]


@pytest.fixture
def app(servers: list[App]) -> App:
    """The server that the owner is connected with."""
    return servers[0]


@pytest.fixture
def other(servers: list[App]) -> App:
    return servers[1]


@pytest.fixture(scope="module")
async def new_person(servers: list[App]) -> AsyncIterator[NewPerson]:
    async with people(servers[0].address) as new_person:
        yield new_person


@pytest.fixture
async def owner(new_person: NewPerson) -> Person:
    return await new_person()


async def change(app: App, org_id: str) -> None:
    async with app.db.write(UUID(org_id)) as tx:
        append(tx, pb.EVENT_TYPE_ORG_UPDATED)


async def test_two_servers_append_and_are_watched(app: App, other: App, owner: Person) -> None:
    org_id, there = await make_org(owner), reconnected(owner, other.address)
    watching = [asyncio.create_task(watch(person, org_id, 0, COUNT)) for person in (owner, there) for _ in range(3)]
    await asyncio.gather(*(change((app, other)[n % 2], org_id) for n in range(COUNT)))
    for seen in await asyncio.gather(*watching):
        assert seen == list(range(1, COUNT + 1))
    assert await watch(there, org_id, 40, COUNT) == list(range(41, COUNT + 1)), "resumed on the other server"
    await there.channel.close()


async def test_a_watcher_that_waits_is_told_of_what_another_server_appends(app: App, other: App, owner: Person) -> None:
    org_id = await make_org(owner)
    await change(app, org_id)
    call = owner.events.WatchEvents(pb.WatchEventsRequest(org_id=org_id))
    assert (await call.read()).event.sequence == 1
    for sequence in (2, 3):
        await change(other, org_id)
        assert (await call.read()).event.sequence == sequence
    call.cancel()


async def test_more_events_than_one_batch_are_streamed(app: App, owner: Person) -> None:
    org_id = await make_org(owner)
    async with app.db.write(UUID(org_id)) as tx:
        for _ in range(250):
            append(tx, pb.EVENT_TYPE_ORG_UPDATED)
    assert await watch(owner, org_id, 0, 250) == list(range(1, 251))


async def test_what_is_not_kept_or_not_there_is_refused(app: App, owner: Person, shared: Stores) -> None:
    org_id = await make_org(owner)
    for _ in range(3):
        await change(app, org_id)
    old = "UPDATE events SET create_time = now() - interval '31 days' WHERE org_id = %s AND sequence < 3"
    await sql(shared, old, org_id)
    await Retention(app.db).purge()
    refused = await refusal(watch(owner, org_id, 1, 3))
    assert refused
    assert (refused.code, refused.reason) == ("OUT_OF_RANGE", "EVENTS_DELETED")
    assert await outcome(watch(owner, org_id, 4, 5)) == "OUT_OF_RANGE SEQUENCE_AHEAD"
    assert await watch(owner, org_id, 0, 3) == [3]


async def test_a_watcher_who_loses_the_permission_is_refused(app: App, owner: Person, new_person: NewPerson) -> None:
    org_id, admin = await make_org(owner), await new_person()
    await join(owner, org_id, admin, org_pb2.ROLE_ADMIN)
    watching = asyncio.create_task(outcome(watch(admin, org_id, 0, 100)))
    await asyncio.sleep(0)
    await update_member(owner, org_id, admin, role=org_pb2.ROLE_MEMBER)
    assert await asyncio.wait_for(watching, 60) == "PERMISSION_DENIED PERMISSION_MISSING"


async def test_a_server_that_stops_ends_its_watchers_at_once(app: App, owner: Person, values: Settings) -> None:
    org_id = await make_org(owner)
    patient = values.model_copy(update={"shutdown_seconds": 300})
    async with running(patient, migrating=False) as stopping:
        there = reconnected(owner, stopping.address)
        await change(app, org_id)
        call = there.events.WatchEvents(pb.WatchEventsRequest(org_id=org_id))
        assert (await call.read()).event.sequence == 1
    assert (await call.code()).name == "UNAVAILABLE"
    await there.channel.close()


# The client


async def test_the_client_goes_on_after_its_server_stopped(app: App, owner: Person, values: Settings) -> None:
    org_id = await make_org(owner)
    for _ in range(2):
        await change(app, org_id)
    async with running(values, migrating=False) as one:
        fixed = values.model_copy(update={"port": int(one.address.rpartition(":")[2])})
        client = AsyncClient(one.address, access_token=owner.bearer.token)
        events = client.events.watch(org_id)
        assert [(await anext(events)).sequence for _ in range(2)] == [1, 2]
    async with running(fixed, migrating=False):
        await change(app, org_id)
        assert (await anext(events)).sequence == 3
        await events.aclose()
        await client.close()


async def test_the_client_raises_when_its_time_is_over(app: App, owner: Person) -> None:
    org_id = await make_org(owner)
    async with AsyncClient(app.address, access_token=owner.bearer.token) as client:
        with pytest.raises(errors.DeadlineExceededError):
            await anext(client.events.watch(org_id, timeout=1))
