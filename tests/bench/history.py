"""Long conversations and long lists: that what a call costs does not grow with what is stored."""

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from itertools import cycle, islice
from statistics import median
from typing import Any
from uuid import UUID

from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace_server.kit.ids import new_id
from tests.support.people import Place, make_conversation, make_place, make_workspace, people

from .provider import question
from .servers import Site
from .table import Row

_MODEL = "openai/gpt-4o-mini"
_SHORT, _LONG = 10, 10_000  # messages of conversations in which somebody goes on
_SMALL = 1_000  # messages of a conversation, and conversations of a workspace, that are listed
_INSERTED_AT_ONCE = 2_000
_PAGE = 50
_TOKENS = 20

Call = Callable[[], Awaitable[None]]
Fill = Callable[[int], Awaitable[str]]  # from a number of entries to the id of what has so many
Count = Callable[[str], Awaitable[int]]  # from that id to the number of entries on its first page
Collection = AsyncCollection[Mapping[str, Any]]


async def measure(site: Site, quick: bool) -> list[Row]:
    large, calls = (100_000, 40) if quick else (1_000_000, 200)
    mongo = AsyncMongoClient[Mapping[str, Any]](site.stores["MONGO_URI"], uuidRepresentation="standard")
    with site.provider() as provider, site.server(provider) as server:
        async with people(server.address) as new_person, mongo:
            place = await make_place(await new_person(), _MODEL)
            filled = _Filled(place, mongo.get_default_database("aiworkspace"))
            return [
                await _going_on(filled, calls),
                await _listing("ListMessages", filled.conversation, filled.count_messages, large, calls),
                await _listing("ListConversations", filled.workspace, filled.count_conversations, large, calls),
            ]


class _Filled:
    """Makes conversations and workspaces with so much in them: copies of what the server itself has stored."""

    def __init__(self, place: Place, database: AsyncDatabase[Mapping[str, Any]]) -> None:
        self.place = place
        self._conversations, self._runs = database["conversations"], database["runs"]

    async def conversation(self, messages: int) -> str:
        """Return the id of a conversation of so many messages."""
        conversation_id = await make_conversation(self.place.owner, self.place.workspace_id, _MODEL)
        await say(self.place, conversation_id)
        run = await self._runs.find_one({"conversation_id": UUID(conversation_id)})
        assert run
        new = ("_id", "user_message_id", "message_id")
        await _insert(self._runs, ({**run, **{name: new_id() for name in new}} for _ in range(messages // 2 - 1)))
        return conversation_id

    async def workspace(self, conversations: int) -> str:
        """Return the id of a workspace of so many conversations."""
        workspace_id = await make_workspace(self.place.owner, self.place.org_id)
        first = await make_conversation(self.place.owner, workspace_id, _MODEL)
        found = await self._conversations.find_one({"_id": UUID(first)})
        assert found
        await _insert(self._conversations, ({**found, "_id": new_id()} for _ in range(conversations - 1)))
        return workspace_id

    async def count_messages(self, conversation_id: str) -> int:
        """List a page of a conversation."""
        request = pb.ListMessagesRequest(conversation_id=conversation_id, page_size=_PAGE)
        return len((await self.place.owner.chat.ListMessages(request)).messages)

    async def count_conversations(self, workspace_id: str) -> int:
        """List a page of a workspace."""
        request = pb.ListConversationsRequest(workspace_id=workspace_id, page_size=_PAGE)
        return len((await self.place.owner.chat.ListConversations(request)).conversations)


async def _insert(collection: Collection, documents: Iterable[Mapping[str, Any]]) -> None:
    left: Iterator[Mapping[str, Any]] = iter(documents)
    while some := list(islice(left, _INSERTED_AT_ONCE)):
        await collection.insert_many(some, ordered=False)


async def say(place: Place, conversation_id: str) -> None:
    content = question(_TOKENS, at_once=True)
    stream = place.owner.chat.SendMessage(
        pb.SendMessageRequest(conversation_id=conversation_id, content=content, request_id=str(new_id()))
    )
    if [response.event.WhichOneof("event") async for response in stream][-1] != "run_completed":
        raise RuntimeError("an answer did not complete")


async def _going_on(filled: _Filled, calls: int) -> Row:
    short = cycle([await filled.conversation(_SHORT) for _ in range(calls // 4)])  # so that none of them grows long
    long = await filled.conversation(_LONG)
    took = await _took(calls, lambda: say(filled.place, next(short)), lambda: say(filled.place, long))
    return _row(f"SendMessage, conversation of {_LONG:,} messages / of {_SHORT}", 1.2, took)


async def _listing(method: str, fill: Fill, count: Count, large: int, calls: int) -> Row:
    few, many = [await fill(number) for number in (_SMALL, large)]

    async def ask(where: str) -> None:
        if await count(where) != _PAGE:
            raise RuntimeError("something is missing")

    took = await _took(calls, lambda: ask(few), lambda: ask(many))
    return _row(f"{method}, {_PAGE} of {large:,} / of {_SMALL:,}", 1.5, took)


async def _took(calls: int, small: Call, large: Call) -> tuple[float, float]:
    """Return the median milliseconds of both calls, which take turns."""
    times: dict[Call, list[float]] = {small: [], large: []}
    for _ in range(calls):
        for call, took in times.items():
            start = time.perf_counter()
            await call()
            took.append((time.perf_counter() - start) * 1000)
    return median(times[small]), median(times[large])


def _row(what: str, goal: float, took: tuple[float, float]) -> Row:
    small, large = took
    return Row(what, large / small, goal, [f"{large:.2f} / {small:.2f} ms"], least=False)
