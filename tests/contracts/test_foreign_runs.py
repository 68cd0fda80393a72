"""An answer that is being given: nobody else stops it, reads it, or takes it away."""

import asyncio
import re
from typing import Any

import grpc
import pytest

from aiworkspace.v1 import chat_pb2, org_pb2
from tests.standin import Script, Standin
from tests.support.belongings import keep_documents
from tests.support.people import NewPerson, Person, Place, join, make_conversation, make_place
from tests.support.runs import events_of, follow
from tests.support.surface import CLOSED, SCOPES, Endpoint, name_of, random_id

MODEL = "openai/gpt-4o"
WORDS = tuple(f"word{n} " for n in range(1500))


def started(place: Place, conversation_id: str) -> Any:
    message = chat_pb2.SendMessageRequest(conversation_id=conversation_id, content="hello")
    return place.owner.chat.SendMessage(message)


def shape(events: list[chat_pb2.ChatEvent]) -> str:
    """All that the events say but ids and times, whatever pieces the text came in."""
    told: list[chat_pb2.ChatEvent] = []
    for event in events:
        if event.HasField("content_delta") and told and told[-1].HasField("content_delta"):
            told[-1].content_delta.text += event.content_delta.text
        else:
            told.append(chat_pb2.ChatEvent())
            told[-1].CopyFrom(event)
            told[-1].ClearField("sequence")
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "id", "\n".join(map(str, told)))
    return re.sub(r"seconds: \d{10}(\s+nanos: \d+)?", "time", text)  # a full second has no nanos


@pytest.fixture(scope="module")
async def place(new_person: NewPerson) -> Place:
    return await make_place(await new_person(), MODEL)


@pytest.fixture(scope="module")
async def others(new_person: NewPerson, place: Place) -> dict[str, Person]:
    """Who has no business with the answer."""
    colleague, admin, stranger = await new_person(), await new_person(), await new_person()
    await join(place.owner, place.org_id, colleague, org_pb2.ROLE_MEMBER)
    await join(place.owner, place.org_id, admin, org_pb2.ROLE_ADMIN)
    return {"colleague": colleague, "admin": admin, "stranger": stranger}


def scoped(*scopes: str) -> list[Endpoint]:
    return [e for e in CLOSED if e.access.scope.rpartition(".")[2] in scopes]


@pytest.mark.parametrize("who", ["colleague", "admin", "stranger"])
async def test_others_neither_read_nor_stop_a_running_answer(
    who: str, place: Place, others: dict[str, Person], standin: Standin
) -> None:
    standin.script("gpt-4o", Script(tokens=WORDS))
    undisturbed = await events_of(started(place, await make_conversation(place.owner, place.workspace_id, MODEL)))
    enough = asyncio.Event()
    standin.script("gpt-4o", Script(tokens=WORDS, seconds_per_token=0.02, enough=enough))
    conversation_id = await make_conversation(place.owner, place.workspace_id, MODEL)
    stream, asked = started(place, conversation_id), len(standin.received)
    first = (await stream.read()).event
    ids = {"conversation_id": conversation_id, "run_id": first.run_id, "workspace_id": place.workspace_id}
    ids |= {"org_id": place.org_id, "user_id": place.owner.user_id, "upload_id": random_id()}
    ids |= await keep_documents(place.owner, place.workspace_id)
    # A stranger may do nothing in the organization; a colleague sees all of it but other people's conversations.
    tried = scoped(*(SCOPES if who == "stranger" else ("conversation_id", "run_id")))
    reading = asyncio.create_task(events_of(stream))
    for endpoint in tried:
        outcome = await endpoint.call(others[who], endpoint.request(ids))
        assert outcome.code == grpc.StatusCode.NOT_FOUND, name_of(endpoint)
    assert len(tried) >= 7
    assert not reading.done(), "the answer ended before everything was tried"
    enough.set()
    events = [first, *await reading]
    assert events[-1].HasField("run_completed")
    assert shape(events) == shape(undisturbed)
    again = await events_of(follow(place.owner, first.run_id))
    assert again == events
    assert len(standin.received) == asked + 1
