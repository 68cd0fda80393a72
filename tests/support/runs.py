"""Runs: sending messages, reading their events, and what was stored and billed."""

import asyncio
from typing import Any

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import common_pb2
from tests.standin import Script, Standin
from tests.support.people import Person, Place
from tests.support.postgres import sql
from tests.support.stores import Stores

OPENAI = "openai/gpt-4o-mini"
ANTHROPIC = "anthropic/claude-haiku-4-5"
DEEPSEEK = "deepseek/deepseek-chat"
WORDS = tuple(f"word{n} " for n in range(20))


async def events_of(stream: Any) -> list[pb.ChatEvent]:
    """All events of a SendMessage or StreamRun call."""
    return [response.event async for response in stream]


def text_of(events: list[pb.ChatEvent]) -> str:
    return "".join(event.content_delta.text for event in events)


def kinds_of(events: list[pb.ChatEvent]) -> list[str | None]:
    return [event.WhichOneof("event") for event in events]


def send_in(person: Person, conversation_id: str, content: str = "hello", **fields: Any) -> Any:
    return person.chat.SendMessage(pb.SendMessageRequest(conversation_id=conversation_id, content=content, **fields))


def send(place: Place, content: str = "hello", **fields: Any) -> Any:
    return send_in(place.owner, place.conversation_id, content, **fields)


async def say(person: Person, conversation_id: str, content: str, **fields: Any) -> list[pb.ChatEvent]:
    """Sends a message and waits for the end of the answer."""
    return await events_of(send_in(person, conversation_id, content, **fields))


def play(standin: Standin, model: str, *scripts: Script) -> str:
    """Lets the stand-in answer requests for the model in this way, one after the other; returns the model."""
    standin.script(model.partition("/")[2], *scripts)
    return model


def talk(standin: Standin) -> asyncio.Event:
    """Lets every answer of OPENAI last for a minute, or until the event is set."""
    enough = asyncio.Event()
    play(standin, OPENAI, Script(tokens=("word ",) * 600, seconds_per_token=0.1, enough=enough))
    return enough


async def attempts_of(place: Place, run_id: str) -> list[pb.Attempt]:
    return list((await place.owner.chat.ListAttempts(pb.ListAttemptsRequest(run_id=run_id))).attempts)


async def messages_of(place: Place) -> list[pb.Message]:
    request = pb.ListMessagesRequest(conversation_id=place.conversation_id)
    return list((await place.owner.chat.ListMessages(request)).messages)


async def endings_of(stores: Stores, run_id: str) -> list[tuple[Any, ...]]:
    """(attempt, kind) of all that the ledger has of the run, in order."""
    query = "SELECT attempt, kind FROM ledger_entries WHERE run_id = %s ORDER BY attempt, id"
    return await sql(stores, query, run_id)


def follow(person: Person, run_id: str, after: int = 0) -> Any:
    return person.chat.StreamRun(pb.StreamRunRequest(run_id=run_id, after_sequence=after))


async def first_deltas(stream: Any, count: int) -> list[pb.ChatEvent]:
    """Reads the stream until that many pieces of text have come."""
    events: list[pb.ChatEvent] = []
    while sum(event.HasField("content_delta") for event in events) < count:
        events.append((await stream.read()).event)
    return events


def reason_of(failure: pb.RunFailure) -> str:
    return common_pb2.ErrorReason.Name(failure.reason).removeprefix("ERROR_REASON_")


def steps_of(events: list[pb.ChatEvent]) -> list[str]:
    """The kinds of events that differ from the one before."""
    kinds = [str(event.WhichOneof("event")) for event in events if not event.HasField("heartbeat")]
    return [kind for kind, before in zip(kinds, ["", *kinds], strict=False) if kind != before]
