"""MongoDB: that no command of a tenant leaves out the organization, and that reads outlive a lost connection."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import BulkWriteError, WriteError
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from pymongo.uri_parser import parse_uri

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace_server.app import App, running
from aiworkspace_server.kit import mongo
from aiworkspace_server.kit.mongo import Mongo, Tenant
from aiworkspace_server.kit.stores import STORE_UNAVAILABLE, StoreFull
from aiworkspace_server.settings import Settings
from tests.standin import Standin
from tests.support.belongings import Belongings, furnish
from tests.support.people import PASSWORD, Person, make_place, people
from tests.support.postgres import sql
from tests.support.runs import events_of, follow, say
from tests.support.settings import provider_settings, store_settings
from tests.support.stores import Stores, other_databases
from tests.support.surface import CLOSED, ENDPOINTS

# A tenant's collection


@pytest.fixture
async def tenants(app: App) -> AsyncIterator[tuple[Tenant, Tenant]]:
    """The same collection as two organizations see it."""
    yield app.mongo.tenant("things", uuid4()), app.mongo.tenant("things", uuid4())
    await app.mongo.database.drop_collection("things")


async def test_nobody_names_the_organization_themselves(tenants: tuple[Tenant, Tenant]) -> None:
    tenant, _ = tenants
    where = {"org_id": uuid4()}
    with pytest.raises(ValueError, match="org_id is set only by"):
        await tenant.find_one(where)
    with pytest.raises(ValueError, match="org_id is set only by"):
        tenant.find(where)
    with pytest.raises(ValueError, match="org_id is set only by"):
        await tenant.save({"_id": uuid4(), **where})
    with pytest.raises(ValueError, match="org_id is set only by"):
        await tenant.update(where, {"$set": {"name": "x"}})
    with pytest.raises(ValueError, match="org_id is set only by"):
        await tenant.delete(where)


async def test_nobody_names_the_organization_of_one_document_among_many(app: App) -> None:
    with pytest.raises(ValueError, match="org_id is set only by"):
        await app.mongo.insert_all("things", [(uuid4(), {"_id": 1}), (uuid4(), {"_id": 2, "org_id": uuid4()})])


async def test_the_organizations_to_search_are_named_by_find_among_alone(app: App) -> None:
    with pytest.raises(ValueError, match="org_id is set only by"):
        await app.mongo.find_among("things", [uuid4()], {"org_id": uuid4()})


async def test_a_tenant_sees_its_own_documents_alone(tenants: tuple[Tenant, Tenant], app: App) -> None:
    ours, theirs = tenants
    await theirs.save({"_id": 1, "name": "theirs"})
    assert await ours.find_one({"_id": 1}) is None
    assert await ours.find({"$or": [{"_id": 1}, {"org_id": {"$exists": True}}]}).to_list() == []
    assert not await ours.update({"_id": 1}, {"$set": {"name": "ours"}})
    await ours.delete({})
    found = await theirs.find_one({"_id": 1})
    assert found is not None
    assert found["name"] == "theirs"
    assert await app.mongo.find_among("things", [], {"_id": 1}) is None
    assert await app.mongo.find_among("things", [found["org_id"], uuid4()], {"_id": 1}) == found


async def test_saving_again_changes_nothing(tenants: tuple[Tenant, Tenant]) -> None:
    tenant, _ = tenants
    await tenant.save({"_id": 1, "name": "first"})
    await tenant.save({"_id": 1, "name": "second"})
    assert [found["name"] for found in await tenant.find({}).to_list()] == ["first"]


async def test_the_latest_are_read_in_pages(tenants: tuple[Tenant, Tenant]) -> None:
    ours, theirs = tenants
    for number in range(5):
        await ours.save({"_id": number, "name": "ours"})
    await theirs.save({"_id": 9, "name": "theirs"})
    assert await ours.find_latest({}, ["name"], 3) == ([{"_id": n, "name": "ours"} for n in (4, 3, 2)], True)
    assert await ours.find_latest({"_id": {"$lt": 2}}, ["_id"], 3) == ([{"_id": 1}, {"_id": 0}], False)
    with pytest.raises(ValueError, match="org_id is set only by"):
        await ours.find_latest({"org_id": uuid4()}, ["name"], 3)


async def test_a_page_that_is_too_large_for_a_reply_has_its_rest_on_the_next(
    tenants: tuple[Tenant, Tenant], app: App
) -> None:
    tenant, _ = tenants
    for number in range(3):
        await tenant.save({"_id": number, "text": "x" * 7 * 2**20})
    before = await _open_cursors(app)
    found, more = await tenant.find_latest({}, ["text"], 3)
    assert ([each["_id"] for each in found], more) == ([2, 1], True)
    assert await _open_cursors(app) == before


async def _open_cursors(app: App) -> int:
    status = await app.mongo.database.command("serverStatus")
    return int(status["metrics"]["cursor"]["open"]["total"])


# A connection that is lost


class Link:
    """Between a client and MongoDB: loses the connections on which it is sent a find, so many times."""

    def __init__(self, path: str) -> None:
        self.losing = self.lost = 0
        self._path = path

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_unix_connection(self._path)
        answers = asyncio.create_task(_copy(upstream, writer))
        while data := await reader.read(1 << 16):
            if b"\x02find\0" in data and self.lost < self.losing:
                self.lost += 1
                break
            downstream.write(data)
        downstream.close()
        writer.close()
        await answers


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


@pytest.fixture
async def linked(stores: Stores) -> AsyncIterator[tuple[Mongo, Link]]:
    """A client that reaches the database through a link."""
    (node,) = parse_uri(stores.mongo)["nodelist"]
    link = Link(node[0])
    server = await asyncio.start_server(link.join, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = Mongo(f"mongodb://127.0.0.1:{port}/aiworkspace?directConnection=true")
    yield client, link
    await client.close()
    server.close()


async def test_a_read_outlives_the_loss_of_its_connection(linked: tuple[Mongo, Link]) -> None:
    client, link = linked
    tenant = client.tenant("lost", uuid4())
    await tenant.save({"_id": 1, "name": "here"})
    link.losing = 1
    assert await tenant.find_one({"_id": 1}, ["name"]) == {"_id": 1, "name": "here"}
    assert link.lost == 1
    link.losing = 2
    assert await tenant.find_latest({}, ["name"], 2) == ([{"_id": 1, "name": "here"}], False)
    assert link.lost == 2
    await tenant.delete({})


async def test_a_read_that_loses_every_connection_finds_the_database_unavailable(linked: tuple[Mongo, Link]) -> None:
    client, link = linked
    tenant = client.tenant("lost", uuid4())
    link.losing = 100
    with pytest.raises(STORE_UNAVAILABLE):
        await tenant.find_one({"_id": 1})
    with pytest.raises(STORE_UNAVAILABLE):
        await tenant.find_latest({}, ["name"], 2)
    assert 2 <= link.lost < 10


# A disk that is full


class _Full:
    """The driver's collection, of a MongoDB that has no room."""

    async def write(self, *_: object, **__: object) -> None:
        raise WriteError("not enough room", 14031)

    async def write_many(self, *_: object, **__: object) -> None:
        errors = [{"index": 0, "code": 11000}, {"index": 1, "code": 14031}]
        raise BulkWriteError({"writeErrors": errors, "writeConcernErrors": []})

    insert_one = update_one = delete_many = write
    insert_many = bulk_write = write_many


async def test_a_write_for_which_there_is_no_room_finds_the_database_unavailable(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Mongo(stores.mongo)
    monkeypatch.setattr(client, "database", {"things": _Full()})
    tenant, id, change = client.tenant("things", uuid4()), uuid4(), {"$set": {"name": "x"}}
    for write in (
        lambda: tenant.insert({"_id": 1}),
        lambda: tenant.save({"_id": 1}),
        lambda: tenant.update({"_id": 1}, change),
        lambda: tenant.delete({"_id": 1}),
        lambda: client.insert_all("things", [(id, {"_id": 1}), (id, {"_id": 2})]),
        lambda: client.update_all("things", [(id, {"_id": 1}, change), (id, {"_id": 2}, change)]),
    ):
        with pytest.raises(StoreFull):
            await write()
    assert issubclass(StoreFull, STORE_UNAVAILABLE)
    await client.close()


# Every command of the server


class Recorder(CommandListener):
    def __init__(self) -> None:
        self.commands: list[Mapping[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.commands.append(event.command)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Nothing to note."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Nothing to note."""


@dataclass(frozen=True)
class Journey:
    """All commands of a server that did everything that can be done, and the organizations that it worked for."""

    commands: list[Mapping[str, Any]]
    orgs: set[UUID]


@pytest.fixture(scope="module")
async def journey(stores: Stores, standin: Standin) -> Journey:
    recorder = Recorder()
    elsewhere = await other_databases(stores, "watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mongo, "AsyncMongoClient", partial(AsyncMongoClient, event_listeners=[recorder]))
        settings = Settings.model_validate(store_settings(elsewhere) | provider_settings(standin))
        async with running(settings, migrating=True) as watched, people(watched.address) as new_person:
            recorder.commands.clear()  # the server's own, before it takes calls
            belongings = await furnish(new_person)
            await _travel(belongings.owner)
            await _call_everything(belongings)
            commands = list(recorder.commands)
    return Journey(commands, {org_id for (org_id,) in await sql(elsewhere, "SELECT id FROM orgs")})


async def _call_everything(belongings: Belongings) -> None:
    """Every method of the contract with ids that exist, those last that take something away."""
    ending = ("Delete", "Remove", "Revoke", "Suspend", "Logout")
    for endpoint in sorted(ENDPOINTS, key=lambda endpoint: endpoint.descriptor.name.startswith(ending)):
        request = endpoint.request(belongings.ids)
        if endpoint.descriptor.name == "ChangePassword":
            request.new_password = PASSWORD  # with which to log in again
        outcome = await endpoint.call(belongings.owner, request)
        if outcome.code == grpc.StatusCode.UNAUTHENTICATED and endpoint in CLOSED:
            await belongings.owner.log_in()  # the method before ended the session
            outcome = await endpoint.call(belongings.owner, request)
            assert outcome.code != grpc.StatusCode.UNAUTHENTICATED


async def _travel(person: Person) -> None:
    place = await make_place(person)
    conversation_id = place.conversation_id
    events = await say(person, conversation_id, "hello")
    run_id = events[0].run_id
    await say(person, conversation_id, "hello again")
    await events_of(follow(person, run_id, 2))
    await person.chat.GetRun(pb.GetRunRequest(run_id=run_id))
    await person.chat.CancelRun(pb.CancelRunRequest(run_id=run_id))
    await person.chat.GetConversation(pb.GetConversationRequest(conversation_id=conversation_id))
    await person.chat.ListConversations(pb.ListConversationsRequest(workspace_id=place.workspace_id, page_size=1))
    await person.chat.ListMessages(pb.ListMessagesRequest(conversation_id=conversation_id, page_size=1))
    renamed = pb.Conversation(conversation_id=conversation_id, title="Hello")
    await person.chat.UpdateConversation(pb.UpdateConversationRequest(conversation=renamed))
    await person.chat.DeleteConversation(pb.DeleteConversationRequest(conversation_id=conversation_id))


def _collection(command: Mapping[str, Any]) -> str:
    return str(command.get("collection", command[next(iter(command))]))


# How a command chooses what to read or write: every filter or document in it.
CHOICES: dict[str, Callable[[Mapping[str, Any]], list[Mapping[str, Any]]]] = {
    "find": lambda command: [command["filter"]],
    "aggregate": lambda command: [stage["$match"] for stage in command["pipeline"][:1]],
    "insert": lambda command: list(command["documents"]),
    "update": lambda command: [update["q"] for update in command["updates"]],
    "delete": lambda command: [delete["q"] for delete in command["deletes"]],
    "findAndModify": lambda command: [command["query"]],
    "getMore": lambda command: [],  # goes on with a find that was looked at
}
OF_THE_CONNECTION = {"endSessions", "hello", "ping"}
COLLECTIONS = {"conversations", "runs", "run_events"}


def test_every_command_names_the_organization(journey: Journey) -> None:
    """On whatever collection: there is none that belongs to nobody, except those that look for what is left to erase.

    They read ids and no content, and what is then done to each of those names its organization.
    """
    seen = set()
    for command in journey.commands:
        name = next(iter(command))
        if name not in OF_THE_CONNECTION and not _reads_only_ids(command):
            seen.add((name, _collection(command)))
            for where in CHOICES[name](command):
                assert _orgs_in(where) <= journey.orgs, command
                assert _orgs_in(where), command
    assert {collection for _, collection in seen} >= COLLECTIONS
    assert {name for name, _ in seen} >= {"find", "update", "delete"}


def _reads_only_ids(command: Mapping[str, Any]) -> bool:
    return "find" in command and command.get("projection") == {"org_id": 1}


def _orgs_in(where: Mapping[str, Any]) -> set[UUID]:
    """The organizations to which a filter or document is bound."""
    org_id = where.get("org_id")
    return {org_id} if isinstance(org_id, UUID) else set(org_id["$in"]) if org_id else set()


def test_no_write_moves_a_document_to_another_organization(journey: Journey) -> None:
    updates = [update for command in journey.commands if "updates" in command for update in command["updates"]]
    assert updates
    assert not [update for update in updates if "org_id" in str(update["u"])]
