"""Passages of documents for runs, in place of a search."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import workspace_pb2
from aiworkspace_server.app import App
from aiworkspace_server.runs.citations.sources import Retrieved, Source, SourceQuery
from tests.support.documents import upload
from tests.support.people import Person, Place

ALL = workspace_pb2.Retrieval(all_documents=True)
MOON = "The Moon is 384,400 km away. It has no air.\nNobody lives there."
MARS = "Mars has two moons.  They are\nPhobos and Deimos. Its day lasts 24.6 hours."
# Tokens of an answer with markers of all kinds, true ones and others, to MOON as [1] and MARS as [2].
MARKED = (
    *("The Moon is far ", "[1]", ". It is made of cheese [9]. Mars has moons [1]", "[2]", ". Its day is long ["),
    *("2", "]", '. In code: `x [1]` and\n```\ny [2]\n```\nTrue: [1: "It has', ' no air"'),
    *("] False", ' [2: "Mars is green"].'),
)
SENT = (  # what is left of them
    "The Moon is far. It is made of cheese. Mars has moons. Its day is long. In code: `x [1]` and\n"
    "```\ny [2]\n```\nTrue: False."
)


@dataclass
class Library:
    """What searches find, and what was searched for."""

    sources: Sequence[Source] = ()
    omissions: frozenset[Any] = frozenset()
    before: Callable[[], Awaitable[object]] | None = None  # awaited by each search
    queries: list[SourceQuery] = field(default_factory=list)

    async def retrieve(self, query: SourceQuery) -> Retrieved:
        self.queries.append(query)
        if self.before:
            await self.before()
        return Retrieved(self.sources, self.omissions)

    def serve(self, app: App, monkeypatch: pytest.MonkeyPatch) -> "Library":
        monkeypatch.setattr(app.engine.deps.documents, "retrieve", self.retrieve)
        return self


async def make_source(person: Person, workspace_id: str, text: str, name: str = "", **fields: Any) -> Source:
    """Upload a document, and return the passage of it that has this text."""
    document = await upload(person, workspace_id, text.encode(), name=name or f"{text[:8].strip()}.txt")
    values: dict[str, Any] = {"place": {"page": 3}, "start": 0, "version": 1} | fields
    end = values["start"] + len(text)
    return Source(
        UUID(document.document_id), UUID(document.version_id), document_name=document.name, text=text, end=end, **values
    )


async def read_all(place: Place) -> None:
    """Base the answers in a conversation on all documents."""
    conversation = pb.Conversation(conversation_id=place.conversation_id, retrieval=ALL)
    await place.owner.chat.UpdateConversation(pb.UpdateConversationRequest(conversation=conversation))


def citations_of(events: Sequence[pb.ChatEvent]) -> list[pb.Citation]:
    return [event.citation_added.citation for event in events if event.HasField("citation_added")]


async def until_cited(stream: Any) -> list[pb.ChatEvent]:
    """Reads the stream until the first citation has come."""
    events: list[pb.ChatEvent] = []
    while not (events and events[-1].HasField("citation_added")):
        events.append((await stream.read()).event)
    return events


def omissions_of(events: Sequence[pb.ChatEvent]) -> list[str]:
    """Why passages were left out, by the event that reports the search."""
    (found,) = [event.sources_retrieved for event in events if event.HasField("sources_retrieved")]
    return [pb.RetrievalOmission.Name(each).removeprefix("RETRIEVAL_OMISSION_") for each in found.omissions]
