"""Events of runs on their way to other processes, through Redis; and word to a process that a run of it is to end.

What is lost here is found in MongoDB a little later, so nothing waits for Redis and nothing is kept for it.

A run has a stream, whose entries are numbered by the last event in them: Redis refuses what is not later. Who takes a
run over closes its stream with a last entry. So a former owner that does not know yet adds nothing more, and readers
learn that it is time to look into MongoDB; what follows is in a stream with the next number.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any, Protocol
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from .live import LiveRun

_CONTROL = "aiw:control"
_ANSWER_SECONDS = 1.0  # that Redis may take
_AWAY_SECONDS = 1.0  # that it is left alone when it gave none
_SEND_SECONDS = 0.02
_WAIT_MILLISECONDS = 50  # after which those runs are asked for that are followed only since then
_MOST_ENTRIES = 5000
_LONGEST_SECONDS = 1800  # that a stream stays without a new entry
_ENDED_SECONDS = 60  # that it stays after its end
_CLOSING = "closed"
_LAST = f"{2**63}-0"

Entries = list[tuple[bytes, dict[bytes, bytes]]]
REDIS_AWAY = (RedisError, OSError, TimeoutError)

log = structlog.get_logger("relay")


class Follower(Protocol):
    """Somebody who wants the events of a run of another process."""

    run_id: UUID
    stream: int  # the number of the run's stream that is read
    wants: bool  # False: nothing at present

    @property
    def next_sequence(self) -> int: ...

    def receive(self, first: int, events: list[bytes]) -> None: ...

    def close_stream(self) -> None: ...


class Relay:
    """Without the URL of a Redis it does nothing: there is no other process."""

    def __init__(self, redis_url: str | None) -> None:
        self._redis = _client(redis_url) if redis_url else None
        self._sent: dict[LiveRun, int] = {}  # events of each run of this process
        self._streams: dict[UUID, int] = {}
        self._followers: dict[UUID, Follower] = {}
        self._sending, self._reading = asyncio.Event(), asyncio.Event()  # whether there is anything to do
        self._heard: Callable[[list[UUID]], None] = lambda run_ids: None

    @asynccontextmanager
    async def running(self, stop: Callable[[list[UUID]], None]) -> AsyncIterator[None]:
        """Works until the context ends. `stop` is told of runs that are to end, of whatever process they are."""
        if self._redis is None:
            yield
            return
        self._heard = stop
        work = (self._send, self._read, self._listen)
        tasks = [asyncio.create_task(self._go_on(each)) for each in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(*REDIS_AWAY):
                await self._send_all(self._redis)  # the last words of runs that ended just now
            await self._redis.aclose()

    def add(self, live: LiveRun, stream: int | None = 0) -> None:
        """Sends the events of a run from now on. Without a stream they are found in MongoDB alone."""
        if self._redis and stream is not None:
            self._sent[live], self._streams[live.run_id] = 0, stream
            self._sending.set()

    def follow(self, follower: Follower) -> None:
        self._followers[follower.run_id] = follower
        self._reading.set()

    def leave(self, follower: Follower) -> None:
        self._followers.pop(follower.run_id, None)

    async def tell(self, run_ids: Iterable[UUID]) -> None:
        """Tells all processes that these runs are to end. Those that do not hear it see it in the database."""
        if self._redis is None:
            return
        try:
            for run_id in run_ids:
                await self._redis.publish(_CONTROL, run_id.bytes)
        except REDIS_AWAY as error:
            log.warning("Redis does not answer", error=type(error).__name__)

    async def take_over(self, run_id: UUID) -> tuple[dict[int, bytes], int | None]:
        """Closes the streams of a run. Returns what was in them, by sequence, and the number of the next stream.

        Without an answer from Redis there is none: where a dead server's events may be, nobody adds others.
        """
        said: dict[int, bytes] = {}
        if self._redis is None:
            return said, None
        try:
            for stream in count():
                is_first, entries = await _close(self._redis, _key(run_id, stream))
                for _, fields in entries:
                    said |= {int(name): event for name, event in fields.items() if name.isdigit()}
                if is_first:
                    return said, stream + 1
        except REDIS_AWAY as error:
            log.warning("Redis does not answer", error=type(error).__name__)
        return {}, None

    async def erase(self, run_ids: Iterable[UUID], ended_lately: Collection[UUID]) -> None:
        """Empty the streams of runs that have ended. Raise the errors of Redis; the caller retries.

        Those of runs that ended lately are closed too: what their servers have yet to send is refused.
        """
        if self._redis is None:
            return
        pipeline, asked = self._redis.pipeline(transaction=False), list(run_ids)
        for run_id in asked:
            pipeline.exists(_key(run_id, 0))
        there = await pipeline.execute() if asked else ()
        for run_id, found in zip(asked, there, strict=True):
            if found or run_id in ended_lately:
                await _empty(self._redis, run_id)

    async def _go_on(self, work: Callable[[Any], Any]) -> None:
        while True:
            try:
                await work(self._redis)
            except REDIS_AWAY as error:
                log.warning("Redis does not answer", error=type(error).__name__)
            except Exception:
                log.exception("relay failed")
            await asyncio.sleep(_AWAY_SECONDS)

    async def _send(self, redis: Any) -> None:
        while True:
            await self._sending.wait()
            await self._send_all(redis)
            if not self._sent:
                self._sending.clear()
            await asyncio.sleep(_SEND_SECONDS)

    async def _send_all(self, redis: Any) -> None:
        """Sends what there is. It counts as sent whatever comes of it."""
        pipeline = redis.pipeline(transaction=False)
        for live, sent in list(self._sent.items()):
            over = live.ended.is_set()
            if live.shown > sent and not live.cut:
                first = max(sent, live.shown - _MOST_ENTRIES)
                fields = {str(number): live.events[number - 1] for number in range(first + 1, live.shown + 1)}
                key = _key(live.run_id, self._streams[live.run_id])
                pipeline.xadd(key, fields, id=f"{live.shown}-0", maxlen=_MOST_ENTRIES)
                if over or sent == 0:
                    pipeline.expire(key, _ENDED_SECONDS if over else _LONGEST_SECONDS)
                self._sent[live] = live.shown
            if over:
                del self._sent[live], self._streams[live.run_id]
        if len(pipeline):
            await pipeline.execute(raise_on_error=False)  # an entry that is refused is not this process's to add

    async def _read(self, redis: Any) -> None:
        while True:
            await self._reading.wait()
            wanted = {_key(each.run_id, each.stream): each for each in self._followers.values() if each.wants}
            if wanted:
                positions = {key: f"{each.next_sequence - 1}-0" for key, each in wanted.items()}
                for key, entries in _by_key(await redis.xread(positions, block=_WAIT_MILLISECONDS)):
                    _hand_over(wanted[key], entries)
            elif self._followers:
                await asyncio.sleep(_SEND_SECONDS)
            else:
                self._reading.clear()

    async def _listen(self, redis: Any) -> None:
        async with redis.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(_CONTROL)
            while True:
                message = await channel.get_message(timeout=30)
                if message and len(message["data"]) == 16:
                    self._heard([UUID(bytes=message["data"])])


def _client(url: str) -> Any:
    options: Any = {"socket_timeout": _ANSWER_SECONDS, "socket_connect_timeout": _ANSWER_SECONDS}
    return Redis.from_url(url, **options, retry=Retry(NoBackoff(), 0))


def _key(run_id: UUID, stream: int) -> str:
    return f"aiw:run:{run_id}:{stream}"


def _by_key(answer: Any) -> Iterable[tuple[str, Entries]]:
    """What XREAD found, in either version of the protocol."""
    if isinstance(answer, dict):
        for key, parts in answer.items():
            yield key.decode(), [entry for part in parts for entry in part]
    else:
        for key, entries in answer or ():
            yield key.decode(), entries


def _hand_over(follower: Follower, entries: Entries) -> None:
    for _, fields in entries:
        if _CLOSING.encode() in fields:
            follower.close_stream()
        else:
            follower.receive(int(next(iter(fields))), list(fields.values()))


async def _empty(redis: Any, run_id: UUID) -> None:
    for stream in count():
        key = _key(run_id, stream)
        is_first, _ = await _close(redis, key)
        await redis.xtrim(key, maxlen=1, approximate=False)  # which leaves the closing entry
        if is_first or not await redis.exists(_key(run_id, stream + 1)):
            return


async def _close(redis: Any, key: str) -> tuple[bool, Entries]:
    """Adds the last entry, after which Redis takes no other. Returns whether nobody had, and all that is there."""
    transaction = redis.pipeline(transaction=True)
    transaction.xadd(key, {_CLOSING: ""}, id=_LAST)
    transaction.expire(key, _LONGEST_SECONDS)
    transaction.xrange(key)
    closed, _, entries = await transaction.execute(raise_on_error=False)
    if isinstance(closed, RedisError) and not isinstance(closed, ResponseError):
        raise closed
    return not isinstance(closed, ResponseError), entries
