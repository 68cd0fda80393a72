"""People who ask: each with an organization, a workspace, one connection and conversations of their own."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Protocol

from aiworkspace.v1 import chat_pb2 as pb
from tests.support.people import NewPerson, make_conversation, make_place, people

from .http2 import Connection, Reply, connect, headers
from .provider import question
from .servers import Server

MODEL = "openai/gpt-4o-mini"
_SEND_MESSAGE = "/aiworkspace.v1.ChatService/SendMessage"


class Questioner(Protocol):
    """Asks questions, of whatever server."""

    def ask(self, tokens: int, reply: Reply, *, at_once: bool = False) -> None: ...


@dataclass(frozen=True, slots=True)
class Asker:
    """Somebody signed in. Asks in one conversation after the other, so that none of them grows long."""

    connection: Connection
    conversation_ids: Iterator[str]

    def ask(self, tokens: int, reply: Reply, *, at_once: bool = False) -> None:
        """Sends a message whose answer has so many tokens, paced or in a burst."""
        content = question(tokens, at_once=at_once)
        request = pb.SendMessageRequest(
            conversation_id=next(self.conversation_ids), content=content, request_id=str(uuid.uuid4())
        )
        self.connection.call(request.SerializeToString(), reply)


@asynccontextmanager
async def crowd(server: Server, count: int, conversations: int) -> AsyncIterator[list[Asker]]:
    """So many people, each with so many conversations."""
    async with people(server.address) as new_person:
        askers = [await _asker(server, new_person, conversations) for _ in range(count)]
    try:
        yield askers
    finally:
        for asker in askers:
            asker.connection.close()


async def _asker(server: Server, new_person: NewPerson, conversations: int) -> Asker:
    person = await new_person()
    place = await make_place(person)
    ids = await asyncio.gather(*(make_conversation(person, place.workspace_id, MODEL) for _ in range(conversations)))
    connection = await connect(server.address, headers(_SEND_MESSAGE, person.tokens.access_token))
    return Asker(connection, cycle(ids))
