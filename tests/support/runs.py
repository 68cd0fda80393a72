"""Runs: sending messages, reading their events, and what was stored and billed."""

from typing import Any

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import common_pb2, usage_pb2
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


async def say(person: Person, conversation_id: str, content: str, **fields: Any) -> list[pb.ChatEvent]:
    """Sends a message and waits for the end of the answer."""
    request = pb.SendMessageRequest(conversation_id=conversation_id, content=content, **fields)
    return await events_of(person.chat.SendMessage(request))


def play(standin: Standin, model: str, *scripts: Script) -> str:
    """Lets the stand-in answer requests for the model in this way, one after the other; returns the model."""
    standin.script(model.partition("/")[2], *scripts)
    return model


async def ledger_of(place: Place) -> list[usage_pb2.UsageEntry]:
    request = usage_pb2.ListUsageEntriesRequest(org_id=place.org_id)
    return list((await place.owner.usage.ListUsageEntries(request)).entries)


async def attempts_of(place: Place, run_id: str) -> list[pb.Attempt]:
    return list((await place.owner.chat.ListAttempts(pb.ListAttemptsRequest(run_id=run_id))).attempts)


async def messages_of(place: Place) -> list[pb.Message]:
    request = pb.ListMessagesRequest(conversation_id=place.conversation_id)
    return list((await place.owner.chat.ListMessages(request)).messages)


async def endings_of(stores: Stores, run_id: str) -> list[tuple[Any, ...]]:
    """(attempt, kind) of all that the ledger has of the run, in order."""
    query = "SELECT attempt, kind FROM ledger_entries WHERE run_id = %s ORDER BY attempt, id"
    return await sql(stores, query, run_id)


def send(place: Place, content: str = "hello", **fields: Any) -> Any:
    return place.owner.chat.SendMessage(
        pb.SendMessageRequest(conversation_id=place.conversation_id, content=content, **fields)
    )


def reason_of(failure: pb.RunFailure) -> str:
    return common_pb2.ErrorReason.Name(failure.reason).removeprefix("ERROR_REASON_")


def steps_of(events: list[pb.ChatEvent]) -> list[str]:
    """The kinds of events that differ from the one before."""
    kinds = [str(event.WhichOneof("event")) for event in events if not event.HasField("heartbeat")]
    return [kind for kind, before in zip(kinds, ["", *kinds], strict=False) if kind != before]
