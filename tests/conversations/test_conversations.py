"""Conversations and their messages."""

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import workspace_pb2
from aiworkspace_server.app import App
from aiworkspace_server.conversations.store import ConversationStore
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.kit.timestamps import now
from tests.standin import Script, Standin
from tests.support.people import Person, Place, make_conversation
from tests.support.runs import events_of, kinds_of, say
from tests.support.waiting import until


async def get(place: Place) -> pb.Conversation:
    request = pb.GetConversationRequest(conversation_id=place.conversation_id)
    conversation: pb.Conversation = (await place.owner.chat.GetConversation(request)).conversation
    return conversation


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def pages_of(method: Any, request: Any, field: str) -> list[Any]:
    """The whole list, page by page."""
    items: list[Any] = []
    while True:
        response = await method(request)
        assert len(getattr(response, field)) <= request.page_size
        items.extend(getattr(response, field))
        if not response.next_page_token:
            return items
        request.page_token = response.next_page_token


async def test_the_title_is_the_beginning_of_the_first_message(place: Place) -> None:
    await say(place.owner, place.conversation_id, "What is\n\tthe capital of France, and " + "why " * 50)
    await say(place.owner, place.conversation_id, "And of Spain?")
    title = (await get(place)).title
    assert title.startswith("What is the capital of France, and why")
    assert len(title) <= 60


async def test_messages_stay_in_order_when_the_clock_was_ahead(place: Place, app: App) -> None:
    """As those of a server whose clock has been set back since, or of another one."""
    await say(place.owner, place.conversation_id, "first")
    org_id, ahead = uuid.UUID(place.org_id), uuid.UUID(int=new_id().int + (3_600_000 << 80))
    runs, conversations = (app.mongo.tenant(name, org_id) for name in ("runs", "conversations"))
    of_this = {"conversation_id": uuid.UUID(place.conversation_id)}
    run = await runs.find_one(of_this)
    assert run
    await runs.delete(of_this)
    del run["org_id"]
    await runs.insert(run | {"_id": ahead})
    assert await conversations.update({"_id": of_this["conversation_id"]}, {"$set": {"last_run_id": ahead}})
    for content in ("second", "third"):
        assert kinds_of(await say(place.owner, place.conversation_id, content))[-1] == "run_completed"
    request = pb.ListMessagesRequest(conversation_id=place.conversation_id, page_size=10)
    messages = (await place.owner.chat.ListMessages(request)).messages
    assert [each.contents[0].text for each in messages[::2]] == ["first", "second", "third"]


async def test_a_title_that_was_given_stays(place: Place) -> None:
    update = pb.UpdateConversationRequest(
        conversation=pb.Conversation(conversation_id=place.conversation_id, title="Geography"),
        update_mask=FieldMask(paths=["title"]),
    )
    await place.owner.chat.UpdateConversation(update)
    await say(place.owner, place.conversation_id, "What is the capital of France?")
    assert (await get(place)).title == "Geography"


async def test_an_update_with_an_old_etag_is_aborted(place: Place) -> None:
    update = pb.UpdateConversationRequest(
        conversation=pb.Conversation(conversation_id=place.conversation_id, title="A", etag=(await get(place)).etag)
    )
    changed = (await place.owner.chat.UpdateConversation(update)).conversation
    assert (changed.title, changed.etag) == ("A", "2")
    assert await code_of(place.owner.chat.UpdateConversation(update)) == grpc.StatusCode.ABORTED


async def test_output_only_fields_of_an_update_are_ignored(place: Place) -> None:
    before = await get(place)
    update = pb.UpdateConversationRequest(
        conversation=pb.Conversation(
            conversation_id=place.conversation_id, workspace_id=str(uuid.uuid4()), active_run_id=str(uuid.uuid4())
        ),
        update_mask=FieldMask(paths=["workspace_id", "active_run_id", "create_time"]),
    )
    await place.owner.chat.UpdateConversation(update)
    after = await get(place)
    assert (after.workspace_id, after.active_run_id, after.create_time) == (
        before.workspace_id,
        "",
        before.create_time,
    )


async def test_models_are_taken_from_message_then_conversation_then_workspace(place: Place, standin: Standin) -> None:
    async def model_of_answer(conversation_id: str, **fields: str) -> str:
        events = await say(place.owner, conversation_id, "hello", **fields)
        return str(events[-1].run_completed.run.model)

    standin.script("gpt-4o", Script())
    conversation_id = await make_conversation(place.owner, place.workspace_id, "openai/gpt-4o")
    assert await model_of_answer(place.conversation_id) == "echo/echo"
    assert await model_of_answer(conversation_id) == "openai/gpt-4o"
    assert await model_of_answer(conversation_id, model="echo/echo") == "echo/echo"


async def test_the_same_request_id_makes_one_conversation(place: Place) -> None:
    request = pb.CreateConversationRequest(workspace_id=place.workspace_id, title="T", request_id=str(uuid.uuid4()))
    made = await asyncio.gather(*(place.owner.chat.CreateConversation(request) for _ in range(10)))
    assert len({response.conversation.conversation_id for response in made}) == 1
    request.title = "Other"
    assert await code_of(place.owner.chat.CreateConversation(request)) == grpc.StatusCode.INVALID_ARGUMENT


async def test_conversations_are_listed_page_by_page_the_last_one_first(place: Place) -> None:
    made = [place.conversation_id]
    made += [await make_conversation(place.owner, place.workspace_id) for _ in range(6)]
    for size in (1, 3, 7, 50):
        request = pb.ListConversationsRequest(workspace_id=place.workspace_id, page_size=size)
        listed = await pages_of(place.owner.chat.ListConversations, request, "conversations")
        assert [conversation.conversation_id for conversation in listed] == made[::-1]


async def test_messages_are_listed_page_by_page_the_oldest_first(place: Place) -> None:
    for word in ("one", "two", "three"):
        await say(place.owner, place.conversation_id, word)
    for size in (1, 4, 6, 50):
        request = pb.ListMessagesRequest(conversation_id=place.conversation_id, page_size=size)
        listed = await pages_of(place.owner.chat.ListMessages, request, "messages")
        assert [message.contents[0].text.rsplit(maxsplit=1)[-1] for message in listed] == [
            "one", "one", "two", "two", "three", "three",
        ]  # fmt: skip


async def test_a_page_of_large_messages_ends_early_and_none_is_lost(place: Place) -> None:
    for number in range(3):
        await say(place.owner, place.conversation_id, f"{number} " + "x" * 700_000)
    request = pb.ListMessagesRequest(conversation_id=place.conversation_id, page_size=50)
    listed = await pages_of(place.owner.chat.ListMessages, request, "messages")
    questions = [message for message in listed if message.role == pb.MESSAGE_ROLE_USER]
    assert [message.contents[0].text[0] for message in questions] == ["0", "1", "2"]


async def test_deleting_a_conversation_cancels_its_run_and_removes_what_was_said(
    place: Place, app: App, standin: Standin
) -> None:
    standin.script("gpt-4o", Script(tokens=("word ",) * 1500, seconds_per_token=0.02))
    stream = place.owner.chat.SendMessage(
        pb.SendMessageRequest(conversation_id=place.conversation_id, content="hello", model="openai/gpt-4o")
    )
    run_id = (await stream.read()).event.run_id
    await place.owner.chat.DeleteConversation(pb.DeleteConversationRequest(conversation_id=place.conversation_id))
    assert kinds_of(await events_of(stream))[-1] == "run_cancelled"
    assert await code_of(get(place)) == grpc.StatusCode.NOT_FOUND
    assert await code_of(place.owner.chat.GetRun(pb.GetRunRequest(run_id=run_id))) == grpc.StatusCode.NOT_FOUND
    where = {"conversation_id": uuid.UUID(place.conversation_id)}
    assert await app.mongo.database["runs"].count_documents(where) == 0
    assert await app.mongo.database["run_events"].count_documents({"run_id": uuid.UUID(run_id)}) == 0


async def test_a_deleted_workspace_takes_its_conversations_with_it(place: Place) -> None:
    run_id = (await say(place.owner, place.conversation_id, "hello"))[0].run_id
    await place.owner.workspaces.DeleteWorkspace(workspace_pb2.DeleteWorkspaceRequest(workspace_id=place.workspace_id))
    assert await code_of(get(place)) == grpc.StatusCode.NOT_FOUND
    assert await code_of(say(place.owner, place.conversation_id, "hello")) == grpc.StatusCode.NOT_FOUND
    assert await code_of(place.owner.chat.GetRun(pb.GetRunRequest(run_id=run_id))) == grpc.StatusCode.NOT_FOUND


async def test_models_are_listed_page_by_page_by_id(owner: Person) -> None:
    listed = await pages_of(owner.chat.ListModels, pb.ListModelsRequest(page_size=7), "models")
    ids = [model.model for model in listed]
    assert ids == sorted(ids)
    assert {"echo/echo", "openai/gpt-4o"} < set(ids)
    assert all(model.provider == model.model.partition("/")[0] for model in listed)


async def test_a_title_given_at_the_time_of_the_first_message_stays(place: Place) -> None:
    update = pb.UpdateConversationRequest(
        conversation=pb.Conversation(conversation_id=place.conversation_id, title="Mine"),
        update_mask=FieldMask(paths=["title"]),
    )
    await asyncio.gather(place.owner.chat.UpdateConversation(update), say(place.owner, place.conversation_id, "hello"))
    assert (await get(place)).title == "Mine"


async def test_updates_without_an_etag_do_not_refuse_each_other(place: Place) -> None:
    titles = [f"title {number}" for number in range(10)]
    updates = [
        pb.UpdateConversationRequest(conversation=pb.Conversation(conversation_id=place.conversation_id, title=title))
        for title in titles
    ]
    await asyncio.gather(*(place.owner.chat.UpdateConversation(update) for update in updates))
    assert (await get(place)).title in titles


async def test_a_deletion_goes_on_when_its_caller_goes_away(place: Place, app: App, standin: Standin) -> None:
    standin.script("gpt-4o", Script(tokens=("word ",) * 1500, seconds_per_token=0.02))
    stream = place.owner.chat.SendMessage(
        pb.SendMessageRequest(conversation_id=place.conversation_id, content="hello", model="openai/gpt-4o")
    )
    run_id = (await stream.read()).event.run_id
    call = place.owner.chat.DeleteConversation(pb.DeleteConversationRequest(conversation_id=place.conversation_id))
    conversations = app.mongo.database["conversations"]
    begun = {"_id": uuid.UUID(place.conversation_id), "delete_time": {"$ne": None}}
    for _ in range(10_000):
        if await conversations.count_documents(begun):
            break
    call.cancel()
    runs, of_it = app.mongo.database["runs"], {"conversation_id": uuid.UUID(place.conversation_id)}

    async def erased() -> bool:
        return await runs.count_documents(of_it) == 0

    await until(erased)
    assert await code_of(place.owner.chat.GetRun(pb.GetRunRequest(run_id=run_id))) == grpc.StatusCode.NOT_FOUND


async def test_what_a_crash_left_of_a_deleted_conversation_is_removed(place: Place, app: App) -> None:
    run_id = (await say(place.owner, place.conversation_id, "hello"))[0].run_id
    chat, conversation_id = _store(app, place), uuid.UUID(place.conversation_id)
    await chat.mark_deleted(conversation_id)
    assert await code_of(place.owner.chat.GetRun(pb.GetRunRequest(run_id=run_id))) == grpc.StatusCode.NOT_FOUND
    conversations, this = app.mongo.database["conversations"], {"_id": conversation_id}
    await conversations.update_one(this, {"$set": {"delete_time": now() - timedelta(hours=1)}})
    await until(lambda: conversations.count_documents(this | {"purge_time": {"$ne": None}}))
    where = {"conversation_id": conversation_id}
    assert await app.mongo.database["runs"].count_documents(where) == 0


def _store(app: App, place: Place) -> ConversationStore:
    return ConversationStore(app.mongo, uuid.UUID(place.org_id))
