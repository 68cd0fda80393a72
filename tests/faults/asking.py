"""Somebody who asks and does not give up: as the SDK does, until the answer has ended or was refused."""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import grpc

from aiworkspace.v1 import chat_pb2 as pb
from tests.support.people import Person
from tests.support.runs import text_of

from .calls import CALL_SECONDS, Calls

_TERMINAL = {"run_completed", "run_failed", "run_cancelled"}
_AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
# As the SDK: pings find out that a connection is dead.
_KEEPALIVE = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)


@dataclass
class Asked:
    """One question and what came of it."""

    content: str
    conversation_id: str
    model: str
    whole: str  # the answer, if it comes to its end
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    begin_time: float = field(default_factory=time.monotonic)
    run_id: str = ""  # empty until the server acknowledged the run
    seen: list[pb.ChatEvent] = field(default_factory=list)
    refusal: grpc.aio.AioRpcError | None = None
    end_time: float = 0  # when the terminal event was seen
    deltas: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    @property
    def text(self) -> str:
        return text_of(self.seen)

    @property
    def terminal(self) -> str:
        """Name of the terminal event, empty before it."""
        last = self.seen[-1].WhichOneof("event") if self.seen else None
        return last if last in _TERMINAL else ""

    def take(self, event: pb.ChatEvent) -> None:
        if event.HasField("heartbeat"):
            return
        self.run_id = event.run_id
        self.seen.append(event)
        if event.HasField("content_delta"):
            self.deltas.release()
        if self.terminal:
            self.end_time = time.monotonic()


class Asker:
    """A person, over connections to whichever server runs: several when the server has several processes."""

    def __init__(self, person: Person, address: Callable[[], str], connections: int, calls: Calls) -> None:
        self._person = person
        self._address = address
        self._turn = cycle(range(connections))
        self._connections: dict[tuple[str, int], Person] = {}
        self._others: list[Asker] = []
        self._calls = calls

    @property
    def now(self) -> Person:
        """The person, with one of the connections to a server that ought to answer."""
        key = address, _ = self._address(), next(self._turn)
        if key not in self._connections:
            again = self._connections[key] = Person(address, *_KEEPALIVE)
            again.email, again.user_id, again.bearer.token = (
                self._person.email,
                self._person.user_id,
                self._person.bearer.token,
            )
        return self._connections[key]

    async def ask(self, asked: Asked) -> None:
        """Ends with the terminal event, or with a refusal that repeating does not change."""
        after_all = False
        while not asked.terminal:
            try:
                with self._calls.call("StreamRun" if asked.run_id else "SendMessage") as heard:
                    async for response in self._call(asked, after_all):
                        heard()
                        asked.take(response.event)
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.OUT_OF_RANGE and not after_all:
                    asked.seen.clear()
                    after_all = True
                    continue
                if error.code() not in _AGAIN:
                    asked.refusal = error
                    return
                await asyncio.sleep(0.1)

    def at(self, address: str) -> "Asker":
        """The same person at this server. It is closed with this one."""
        other = Asker(self._person, lambda: address, connections=1, calls=self._calls)
        self._others.append(other)
        return other

    async def close(self) -> None:
        for person in self._connections.values():
            await person.channel.close()
        for other in self._others:
            await other.close()

    def _call(self, asked: Asked, from_the_start: bool) -> Any:
        chat = self.now.chat
        if asked.run_id:
            after = 0 if from_the_start or not asked.seen else asked.seen[-1].sequence
            return chat.StreamRun(pb.StreamRunRequest(run_id=asked.run_id, after_sequence=after), timeout=CALL_SECONDS)
        request = pb.SendMessageRequest(
            conversation_id=asked.conversation_id,
            content=asked.content,
            model=asked.model,
            request_id=asked.request_id,
        )
        return chat.SendMessage(request, timeout=CALL_SECONDS)


async def until_deltas(asked: Sequence[Asked], count: int) -> None:
    """Waits until each of them has seen so many pieces of text."""
    for each in asked:
        for _ in range(count):
            await each.deltas.acquire()
