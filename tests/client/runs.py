"""Scripted runs: what a server sends on one connection after another."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
from google.protobuf.message import Message as AnyMessage

from aiworkspace.v1 import chat_pb2, document_pb2
from aiworkspace.v1.chat_pb2 import ChatEvent, Message, Run
from tests.client.scripted import Context, ScriptedServer

RUN_ID = "0199c0de-0000-7000-8000-00000000000a"
CONVERSATION_ID = "0199c0de-0000-7000-8000-00000000000b"
WORDS = ["One ", "two ", "three ", "four ", "five."]
TEXT = "".join(WORDS)
RUN = Run(run_id=RUN_ID, conversation_id=CONVERSATION_ID, state=chat_pb2.RUN_STATE_RUNNING)

# How a connection of a script ends: with an error, by hanging, or just so.
End = Callable[[Context], Awaitable[object]]


def message(text: str, state: chat_pb2.MessageState.ValueType = chat_pb2.MESSAGE_STATE_COMPLETE) -> Message:
    content = chat_pb2.Content(kind=chat_pb2.CONTENT_KIND_TEXT, text=text)
    return Message(run_id=RUN_ID, role=chat_pb2.MESSAGE_ROLE_ASSISTANT, contents=[content], state=state)


def number(events: list[ChatEvent]) -> list[ChatEvent]:
    for sequence, event in enumerate(events, 1):
        event.run_id, event.sequence = RUN_ID, sequence
    return events


def started() -> ChatEvent:
    return ChatEvent(run_started=chat_pb2.RunStarted(run=RUN))


def piece(words: list[str], kind: chat_pb2.ContentKind.ValueType = chat_pb2.CONTENT_KIND_TEXT) -> list[ChatEvent]:
    deltas = [ChatEvent(content_delta=chat_pb2.ContentDelta(text=word, kind=kind)) for word in words]
    start = ChatEvent(content_started=chat_pb2.ContentStarted(kind=kind))
    return [start, *deltas, ChatEvent(content_stopped=chat_pb2.ContentStopped())]


def completed(text: str = TEXT) -> ChatEvent:
    run = Run(run_id=RUN_ID, state=chat_pb2.RUN_STATE_COMPLETED)
    return ChatEvent(run_completed=chat_pb2.RunCompleted(run=run, message=message(text)))


def whole_run() -> list[ChatEvent]:
    """Sequences: 1 started, 2 content started, 3 to 7 the words, 8 content stopped, 9 completed."""
    return number([started(), *piece(WORDS), completed()])


QUOTED = chat_pb2.Citation(
    end=3, document_name="a\n.pdf", place=document_pb2.Place(page=3, headings=["Guide"]), quote="One,\nindeed"
)


def cited_run() -> list[ChatEvent]:
    """A run whose answer cites one passage twice, after a search that left something out."""
    cited = [ChatEvent(citation_added=chat_pb2.CitationAdded(citation=QUOTED)) for _ in range(2)]
    end = completed()
    end.run_completed.message.citations.extend([QUOTED, QUOTED])
    end.run_completed.message.retrieval_omissions.append(chat_pb2.RETRIEVAL_OMISSION_VECTORS)
    return number([started(), *piece(WORDS), *cited, end])


def two_models() -> list[ChatEvent]:
    """The second goes on where the first broke off."""
    start, *words, stop = piece(WORDS)
    failed = ChatEvent(attempt_failed=chat_pb2.AttemptFailed(attempt=1, model="a/one"))
    first, second = [attempt(1, "a/one"), start, *words[:2], failed], [attempt(2, "b/two"), *words[2:], stop]
    return number([started(), *first, *second, completed()])


def attempt(which: int, model: str) -> ChatEvent:
    begun = chat_pb2.AttemptStarted(attempt=which, model=model, continues=which > 1)
    return ChatEvent(attempt_started=begun)


def heartbeat(sequence: int) -> ChatEvent:
    return ChatEvent(run_id=RUN_ID, sequence=sequence, heartbeat=chat_pb2.Heartbeat())


async def hang(context: Context) -> None:
    await asyncio.sleep(300)


def connections(server: ScriptedServer, *scripts: tuple[list[ChatEvent], End | None]) -> None:
    """What the server does on the first connection, the second and so on, whichever method opens it."""
    left = list(scripts)

    async def handler(request: AnyMessage, context: Context) -> AsyncIterator[AnyMessage]:
        events, end = left.pop(0)
        response = chat_pb2.SendMessageResponse if isinstance(request, chat_pb2.SendMessageRequest) else None
        for event in events:
            yield response(event=event) if response else chat_pb2.StreamRunResponse(event=event)
        if end is not None:
            await end(context)

    server.script("ChatService.SendMessage", handler)
    server.script("ChatService.StreamRun", handler)


def replay(server: ScriptedServer, events: list[ChatEvent], pause: float = 0) -> None:
    """StreamRun as the contract has it, for a run that has ended."""

    async def handler(request: chat_pb2.StreamRunRequest, context: Context) -> AsyncIterator[AnyMessage]:
        for event in events:
            if event.sequence > request.after_sequence or event is events[-1]:
                yield chat_pb2.StreamRunResponse(event=event)
                await asyncio.sleep(pause)

    server.script("ChatService.StreamRun", handler)


async def reset(context: Context) -> None:
    """The server dies, as seen from the client."""
    await context.abort(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer")
