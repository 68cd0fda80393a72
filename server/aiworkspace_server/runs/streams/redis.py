"""Publishes run events to other processes over Redis Streams, and cancellation requests over pub/sub.

Redis is best effort: readers fall back to MongoDB, so publishing never blocks and is never retried.

A run has a stream whose entries are numbered by the last event in them, so Redis refuses an entry that is not later.
A server that takes a run over closes the stream with a last entry: the former owner can add nothing more, and readers
know that it is time to read MongoDB. What follows is in a stream with the next number.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from ...kit.tasks import cancel_all
from .local import LocalRun

if TYPE_CHECKING:
    from .remote import RemoteRun

_CONTROL = "aiw:control"
_TIMEOUT_SECONDS = 1.0  # of a command
_BACKOFF_SECONDS = 1.0  # after a failure
_SEND_SECONDS = 0.02
_WAIT_MILLISECONDS = 50  # of a blocking read, after which runs that are followed since then are included
_MOST_ENTRIES = 5000
_LONGEST_SECONDS = 1800  # that a stream is kept without a new entry
_ENDED_SECONDS = 60  # that it is kept after its end
_CLOSED = "closed"
_LAST = f"{2**63}-0"

Entries = list[tuple[bytes, dict[bytes, bytes]]]
# uvloop raises RuntimeError if a connection was reset between being opened and being written to.
REDIS_UNAVAILABLE = (RedisError, OSError, TimeoutError, RuntimeError)

log = structlog.get_logger("redis")


class RedisEventBus:
    """Does nothing without a URL: there is no other process then."""

    def __init__(self, redis_url: str | None) -> None:
        self._redis = _client(redis_url) if redis_url else None
        self._sent: dict[LocalRun, int] = {}  # events of each run of this process
        self._streams: dict[UUID, int] = {}
        self._followed: dict[UUID, RemoteRun] = {}
        self._has_runs, self._has_followed = asyncio.Event(), asyncio.Event()
        self._on_cancel: Callable[[list[UUID]], None] = lambda run_ids: None

    @property
    def enabled(self) -> bool:
        return self._redis is not None

    @asynccontextmanager
    async def running(self, on_cancel: Callable[[list[UUID]], None]) -> AsyncIterator[None]:
        """Send and receive until the context ends. `on_cancel` gets the ids of runs that any process asks to cancel."""
        if self._redis is None:
            yield
            return
        self._on_cancel = on_cancel
        loops = (self._send, self._receive, self._listen)
        tasks = [asyncio.create_task(self._keep_running(loop)) for loop in loops]
        try:
            yield
        finally:
            await cancel_all(tasks)
            with suppress(*REDIS_UNAVAILABLE):
                await self._send_all(self._redis)  # the last events of runs that ended just now
            await self._redis.aclose()

    def publish(self, run: LocalRun, stream: int | None = 0) -> None:
        """Send the events of a run from now on. None: its events are in MongoDB alone."""
        if self._redis and stream is not None:
            self._sent[run], self._streams[run.run_id] = 0, stream
            self._has_runs.set()

    def follow(self, run: "RemoteRun") -> None:
        self._followed[run.run_id] = run
        self._has_followed.set()

    def unfollow(self, run: "RemoteRun") -> None:
        self._followed.pop(run.run_id, None)

    async def request_cancel(self, run_ids: Iterable[UUID]) -> None:
        """Tell all processes that these runs are to end. Their claims say it too, in case a message is lost."""
        if self._redis is None:
            return
        try:
            for run_id in run_ids:
                await self._redis.publish(_CONTROL, run_id.bytes)
        except REDIS_UNAVAILABLE as error:
            log.warning("redis_unavailable", error=type(error).__name__)

    async def take_over(self, run_id: UUID) -> tuple[dict[int, bytes], int | None]:
        """Close the streams of a run. Return the events in them by sequence, and the number of the next stream.

        There is no next stream if Redis did not answer: a dead server's events may be in the present one.
        """
        found: dict[int, bytes] = {}
        if self._redis is None:
            return found, None
        try:
            for stream in count():
                was_open, entries = await _close(self._redis, _key(run_id, stream))
                for _, fields in entries:
                    found |= {int(name): event for name, event in fields.items() if name.isdigit()}
                if was_open:
                    return found, stream + 1
        except REDIS_UNAVAILABLE as error:
            log.warning("redis_unavailable", error=type(error).__name__)
        return {}, None

    async def erase(self, run_ids: Iterable[UUID], ended_lately: Collection[UUID]) -> None:
        """Empty the streams of runs that have ended. Raise the errors of Redis; the caller retries.

        Streams of runs that ended lately are closed too, so that their servers can add nothing more.
        """
        if self._redis is None:
            return
        pipeline, ids = self._redis.pipeline(transaction=False), list(run_ids)
        for run_id in ids:
            pipeline.exists(_key(run_id, 0))
        exist = await pipeline.execute() if ids else ()
        for run_id, found in zip(ids, exist, strict=True):
            if found or run_id in ended_lately:
                await _empty(self._redis, run_id)

    async def _keep_running(self, loop: Callable[[Any], Any]) -> None:
        while True:
            try:
                await loop(self._redis)
            except REDIS_UNAVAILABLE as error:
                log.warning("redis_unavailable", error=type(error).__name__)
            except Exception:
                log.exception("redis_loop_failed", loop=loop.__name__)
            await asyncio.sleep(_BACKOFF_SECONDS)

    async def _send(self, redis: Any) -> None:
        while True:
            await self._has_runs.wait()
            await self._send_all(redis)
            if not self._sent:
                self._has_runs.clear()
            await asyncio.sleep(_SEND_SECONDS)

    async def _send_all(self, redis: Any) -> None:
        """Send all new events and make them visible here. They count as sent whatever Redis answers."""
        pipeline = redis.pipeline(transaction=False)
        for run, sent in list(self._sent.items()):
            over, ready = run.ended.is_set(), run.publishable
            if ready > sent and not run.detached:
                first = max(sent, ready - _MOST_ENTRIES)
                fields = {str(number): run.events[number - 1] for number in range(first + 1, ready + 1)}
                key = _key(run.run_id, self._streams[run.run_id])
                pipeline.xadd(key, fields, id=f"{ready}-0", maxlen=_MOST_ENTRIES)
                if over or sent == 0:
                    pipeline.expire(key, _ENDED_SECONDS if over else _LONGEST_SECONDS)
                self._sent[run] = ready
            if over:
                del self._sent[run], self._streams[run.run_id]
        try:
            if len(pipeline):
                await pipeline.execute(raise_on_error=False)  # a refused entry belongs to another server's run by now
        finally:
            for run, sent in self._sent.items():
                run.publish(sent)

    async def _receive(self, redis: Any) -> None:
        while True:
            await self._has_followed.wait()
            accepting = {_key(run.run_id, run.stream): run for run in self._followed.values() if run.accepts}
            if accepting:
                positions = {key: f"{run.next_sequence - 1}-0" for key, run in accepting.items()}
                for key, entries in _by_key(await redis.xread(positions, block=_WAIT_MILLISECONDS)):
                    _hand_over(accepting[key], entries)
            elif self._followed:
                await asyncio.sleep(_SEND_SECONDS)
            else:
                self._has_followed.clear()

    async def _listen(self, redis: Any) -> None:
        async with redis.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(_CONTROL)
            while True:
                message = await channel.get_message(timeout=30)
                if message and len(message["data"]) == 16:
                    self._on_cancel([UUID(bytes=message["data"])])


def _client(url: str) -> Any:
    options: Any = {"socket_timeout": _TIMEOUT_SECONDS, "socket_connect_timeout": _TIMEOUT_SECONDS}
    return Redis.from_url(url, **options, retry=Retry(NoBackoff(), 0))


def _key(run_id: UUID, stream: int) -> str:
    return f"aiw:run:{run_id}:{stream}"


def _by_key(answer: Any) -> Iterable[tuple[str, Entries]]:
    """Yield what XREAD found, in either version of the protocol."""
    if isinstance(answer, dict):
        for key, parts in answer.items():
            yield key.decode(), [entry for part in parts for entry in part]
    else:
        for key, entries in answer or ():
            yield key.decode(), entries


def _hand_over(run: "RemoteRun", entries: Entries) -> None:
    for _, fields in entries:
        if _CLOSED.encode() in fields:
            run.close_stream()
        else:
            run.receive(int(next(iter(fields))), list(fields.values()))


async def _empty(redis: Any, run_id: UUID) -> None:
    for stream in count():
        key = _key(run_id, stream)
        was_open, _ = await _close(redis, key)
        await redis.xtrim(key, maxlen=1, approximate=False)  # which leaves the closing entry
        if was_open or not await redis.exists(_key(run_id, stream + 1)):
            return


async def _close(redis: Any, key: str) -> tuple[bool, Entries]:
    """Add the last entry, after which Redis takes no other. Return whether there was none, and all entries."""
    transaction = redis.pipeline(transaction=True)
    transaction.xadd(key, {_CLOSED: ""}, id=_LAST)
    transaction.expire(key, _LONGEST_SECONDS)
    transaction.xrange(key)
    closed, _, entries = await transaction.execute(raise_on_error=False)
    if isinstance(closed, RedisError) and not isinstance(closed, ResponseError):
        raise closed
    return not isinstance(closed, ResponseError), entries
