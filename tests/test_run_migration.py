"""Runs of the release before become one document each: people see afterwards what they saw before."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from pymongo.errors import BulkWriteError

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace_server.app import App, running
from aiworkspace_server.conversations.proto import message_to_proto
from aiworkspace_server.conversations.store import ConversationStore
from aiworkspace_server.kit.mongo import Mongo
from aiworkspace_server.migrate import migrate
from aiworkspace_server.runs import events
from aiworkspace_server.runs.models import RunState
from aiworkspace_server.runs.proto import attempt_to_proto, run_to_proto
from aiworkspace_server.runs.store import RunStore
from aiworkspace_server.settings import Settings
from migrations.mongo.m0004_runs import upgrade
from tests.standin import Standin
from tests.support.postgres import sql
from tests.support.release_before import ReleaseBefore, read_release_before, restored
from tests.support.runs import endings_of, kinds_of, text_of
from tests.support.settings import provider_settings, store_settings
from tests.support.stores import Stores, connected

pytestmark = pytest.mark.usefixtures("app")  # which made the server's roles

OLD = {"messages", "attempts"}


@pytest.fixture(scope="module")
def release() -> ReleaseBefore:
    return read_release_before()


@asynccontextmanager
async def started(where: Stores, standin: Standin) -> AsyncIterator[App]:
    """The server of today, which takes over what dead ones left before it serves."""
    values = provider_settings(standin) | store_settings(where)
    async with running(Settings.model_validate(values), migrating=True) as app:
        yield app


async def messages_in(mongo: Mongo, org_id: UUID, conversation_id: UUID) -> list[pb.Message]:
    messages, more = await ConversationStore(mongo, org_id).list_messages(conversation_id, None, 100)
    assert not more
    return [message_to_proto(message) for message in messages]


async def events_in(mongo: Mongo, org_id: UUID, run_id: UUID) -> list[pb.ChatEvent]:
    stored = await RunStore(mongo, org_id).find_events(run_id)
    assert stored
    found = stored.after(0)
    assert stored.terminal == (found[-1] if stored.ended else None)
    return [events.decode(event) for event in found]


async def check_conversation(mongo: Mongo, release: ReleaseBefore, conversation: str) -> None:
    org_id = release.org_of[UUID(conversation)]
    assert await messages_in(mongo, org_id, UUID(conversation)) == release.messages[conversation]


async def check_all_is_seen(mongo: Mongo, release: ReleaseBefore) -> None:
    """Compares what the code of today reads with what people saw before."""
    org_of = release.org_of
    for conversation in release.messages:
        await check_conversation(mongo, release, conversation)
    for seen in release.runs.values():
        run_id = UUID(seen.run_id)
        org_id = org_of[run_id]
        run = await RunStore(mongo, org_id).find(run_id)
        assert run
        assert run_to_proto(run) == seen
        assert [attempt_to_proto(run_id, each) for each in run["attempts"]] == release.attempts[seen.run_id]
        if seen.run_id in release.events:
            assert await events_in(mongo, org_id, run_id) == release.events[seen.run_id]
    assert set(await mongo.database.list_collection_names()).isdisjoint(OLD)


async def change_validator(mongo: Mongo, validator: dict[str, Any]) -> None:
    """Makes MongoDB refuse changes of other runs."""
    options = mongo.database.codec_options
    await mongo.database.command("collMod", "runs", validator=validator, codec_options=options)


def test_the_release_before_left_runs_of_every_kind(release: ReleaseBefore) -> None:
    states = {run["_id"]: run["state"] for run in release.documents["runs"]}
    assert set(states.values()) == {"completed", "cancelled", "failed", "running"}
    assert states[release.orphan] == "running"
    assert {len(attempts) for attempts in release.attempts.values()} == {1, 2}
    models = {tuple(each.model for each in attempts) for attempts in release.attempts.values()}
    assert ("openai/gpt-4o-mini", "anthropic/claude-haiku-4-5") in models
    kinds = {tuple(each.kind for each in one.contents) for some in release.messages.values() for one in some}
    assert (pb.CONTENT_KIND_THINKING, pb.CONTENT_KIND_TEXT) in kinds
    batches = [batch["run_id"] for batch in release.documents["run_events"]]
    assert max(batches.count(UUID(run)) for run in release.events) > 3
    assert {run["org_id"] for run in release.documents["runs"]} == set(release.org_of.values())
    assert len(set(release.org_of.values())) == 3


async def test_what_people_see_stays_when_the_migration_runs_and_when_it_runs_again(
    stores: Stores, release: ReleaseBefore
) -> None:
    where = await restored(stores, "moved_runs", release)
    async with connected(where) as mongo:
        await migrate(where.postgres, mongo)
        await check_all_is_seen(mongo, release)
        runs = await mongo.database["runs"].find().sort("_id", 1).to_list()
        await mongo.database["migrations"].delete_one({"_id": "m0004_runs"})
        await migrate(where.postgres, mongo)
        assert await mongo.database["runs"].find().sort("_id", 1).to_list() == runs
        await check_all_is_seen(mongo, release)


async def test_a_migration_that_was_interrupted_is_continued(stores: Stores, release: ReleaseBefore) -> None:
    where = await restored(stores, "half_moved_runs", release)
    async with connected(where) as mongo:
        refused = release.documents["runs"][5]["_id"]
        await change_validator(mongo, {"_id": {"$ne": refused}})
        with pytest.raises(BulkWriteError):
            await upgrade(mongo.database, runs_at_once=2)
        moved = await mongo.database["runs"].count_documents({"question": {"$exists": True}})
        assert 2 < moved < len(release.documents["runs"])
        assert set(await mongo.database.list_collection_names()) >= OLD
        await change_validator(mongo, {})
        await migrate(where.postgres, mongo)
        await check_all_is_seen(mongo, release)


async def test_a_deleted_conversation_stays_deleted(stores: Stores, release: ReleaseBefore) -> None:
    where = await restored(stores, "moved_deletions", release)
    async with connected(where) as mongo:
        await migrate(where.postgres, mongo)
        org_id = release.org_of[release.deleted]
        assert await ConversationStore(mongo, org_id).find(release.deleted) is None
        assert await messages_in(mongo, org_id, release.deleted) == []


async def test_a_run_whose_server_was_killed_before_the_upgrade_is_ended_after_it(
    stores: Stores, release: ReleaseBefore, standin: Standin
) -> None:
    where = await restored(stores, "moved_orphan", release)
    org_id = release.org_of[release.orphan]
    async with started(where, standin) as app:
        run = await RunStore(app.mongo, org_id).find(release.orphan)
        assert run
        assert (run["state"], run["attempts"][0]["state"]) == (RunState.INTERRUPTED, RunState.INTERRUPTED)
        told = await events_in(app.mongo, org_id, release.orphan)
        assert [event.sequence for event in told] == list(range(1, len(told) + 1))
        assert kinds_of(told)[-3:] == ["attempt_failed", "content_stopped", "run_failed"]
        assert "".join(content["text"] for content in run["answer"]) == text_of(told) != ""
        question, answer = (await messages_in(app.mongo, org_id, run["conversation_id"]))[-2:]
        assert question == release.messages[str(run["conversation_id"])][-1]
        assert answer == told[-1].run_failed.message
        conversation = await ConversationStore(app.mongo, org_id).find(run["conversation_id"])
        assert conversation
        assert conversation["active_run_id"] is None
    assert await endings_of(where, str(release.orphan)) == [(1, "reserve"), (1, "settle")]
    claim = "SELECT state FROM run_claims WHERE run_id = %s"
    assert await sql(where, claim, release.orphan) == [("closed",)]


async def test_an_end_that_was_stored_in_part_before_the_upgrade_is_completed_after_it(
    stores: Stores, release: ReleaseBefore, standin: Standin
) -> None:
    """That release stored the state of a run first, and then at once the answer and the terminal event."""
    where = await restored(stores, "moved_half_ends", release)
    run_id = next(UUID(run) for run, told in release.events.items() if len(told) > 100)
    org_id, terminal = release.org_of[run_id], release.events[str(run_id)][-1]
    async with connected(where) as mongo:
        last = {"run_id": run_id, "first": terminal.sequence}
        assert (await mongo.database["run_events"].delete_one(last)).deleted_count == 1
        await mongo.database["messages"].delete_one({"_id": UUID(terminal.run_completed.message.message_id)})
        conversation = UUID(terminal.run_completed.run.conversation_id)
        await mongo.database["conversations"].update_one({"_id": conversation}, {"$set": {"active_run_id": run_id}})
    await sql(where, "UPDATE run_claims SET state = 'open' WHERE run_id = %s", run_id)
    async with started(where, standin) as app:
        assert await events_in(app.mongo, org_id, run_id) == release.events[str(run_id)]
        await check_conversation(app.mongo, release, str(conversation))
        assert await sql(where, "SELECT state FROM run_claims WHERE run_id = %s", run_id) == [("closed",)]
