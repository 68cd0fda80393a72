"""MongoDB: that no command of a tenant leaves out the organization."""

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace_server.app import App, running
from aiworkspace_server.kit import mongo
from aiworkspace_server.kit.mongo import Tenant
from aiworkspace_server.settings import Settings
from tests.conftest import Stores, other_databases, store_settings
from tests.people import Person, events_of, make_place, say

TENANT_COLLECTIONS = {"conversations", "messages", "runs", "run_events"}


# A tenant's collection


@pytest.fixture
async def tenants(app: App) -> AsyncIterator[tuple[Tenant, Tenant]]:
    """The same collection as two organizations see it."""
    yield app.mongo.tenant("things", uuid4()), app.mongo.tenant("things", uuid4())
    await app.mongo.database.drop_collection("things")


async def test_nobody_names_the_organization_themselves(tenants: tuple[Tenant, Tenant]) -> None:
    tenant, _ = tenants
    where = {"org_id": uuid4()}
    with pytest.raises(ValueError, match="org_id is set by"):
        await tenant.find_one(where)
    with pytest.raises(ValueError, match="org_id is set by"):
        tenant.find(where)
    with pytest.raises(ValueError, match="org_id is set by"):
        await tenant.save({"_id": uuid4(), **where})
    with pytest.raises(ValueError, match="org_id is set by"):
        await tenant.update(where, {"$set": {"name": "x"}})
    with pytest.raises(ValueError, match="org_id is set by"):
        await tenant.delete(where)


async def test_the_organizations_to_search_are_named_by_find_among_alone(app: App) -> None:
    with pytest.raises(ValueError, match="org_id is set by"):
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


@pytest.fixture(scope="module")
async def journey(stores: Stores) -> tuple[UUID, list[Mapping[str, Any]]]:
    """An organization, and all commands of a server that did everything that can be done in it."""
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mongo, "AsyncMongoClient", partial(AsyncMongoClient, event_listeners=[recorder]))
        settings = Settings.model_validate(store_settings(await other_databases(stores, "watched")))
        async with running(settings, migrating=True) as watched:
            recorder.commands.clear()  # the server's own, before it takes calls
            person = Person(watched.address)
            await (await person.register()).log_in()
            org_id = await _do_everything(person)
            await person.channel.close()
    return UUID(org_id), recorder.commands


async def _do_everything(person: Person) -> str:
    place = await make_place(person)
    conversation_id = place.conversation_id
    events = await say(person, conversation_id, "hello")
    run_id = events[0].run_id
    await say(person, conversation_id, "hello again")
    await events_of(person.chat.StreamRun(pb.StreamRunRequest(run_id=run_id, after_sequence=2)))
    await person.chat.GetRun(pb.GetRunRequest(run_id=run_id))
    await person.chat.CancelRun(pb.CancelRunRequest(run_id=run_id))
    await person.chat.GetConversation(pb.GetConversationRequest(conversation_id=conversation_id))
    await person.chat.ListConversations(pb.ListConversationsRequest(workspace_id=place.workspace_id, page_size=1))
    await person.chat.ListMessages(pb.ListMessagesRequest(conversation_id=conversation_id, page_size=1))
    renamed = pb.Conversation(conversation_id=conversation_id, title="Hello")
    await person.chat.UpdateConversation(pb.UpdateConversationRequest(conversation=renamed))
    await person.chat.DeleteConversation(pb.DeleteConversationRequest(conversation_id=conversation_id))
    return place.org_id


def _targets(command: Mapping[str, Any]) -> tuple[str, str]:
    """The command's name and its collection."""
    name = next(iter(command))
    return name, str(command.get("collection", command[name]))


def _filters(command: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every filter or document of a command by which it chooses what to read or write."""
    choices: dict[str, Callable[[], list[Mapping[str, Any]]]] = {
        "find": lambda: [command["filter"]],
        "aggregate": lambda: [stage["$match"] for stage in command["pipeline"][:1]],
        "insert": lambda: command["documents"],
        "update": lambda: [update["q"] for update in command["updates"]],
        "delete": lambda: [delete["q"] for delete in command["deletes"]],
        "findAndModify": lambda: [command["query"]],
        "getMore": list,  # goes on with a find that was looked at
    }
    return choices[next(iter(command))]()


def test_every_command_on_a_tenants_collection_names_the_organization(
    journey: tuple[UUID, list[Mapping[str, Any]]],
) -> None:
    org_id, commands = journey
    touching = [command for command in commands if _targets(command)[1] in TENANT_COLLECTIONS]
    for command in touching:
        for where in _filters(command):
            assert where.get("org_id") in (org_id, {"$in": [org_id]}), command
    seen = {_targets(command) for command in touching}
    assert {collection for _, collection in seen} == TENANT_COLLECTIONS
    assert {name for name, _ in seen} >= {"find", "update", "delete"}


def test_no_write_moves_a_document_to_another_organization(journey: tuple[UUID, list[Mapping[str, Any]]]) -> None:
    updates = [update for command in journey[1] if "updates" in command for update in command["updates"]]
    assert updates
    assert not [update for update in updates if "org_id" in str(update["u"])]
