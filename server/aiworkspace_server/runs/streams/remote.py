"""Runs in progress in other processes, as this one follows them: each is read once, however many readers it has.

MongoDB has the events that were stored, Redis those since. When Redis is silent or lacks an event, MongoDB is read
again; so without Redis readers get everything too, at the pace at which it is stored.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import structlog

from aiworkspace.v1 import common_pb2

from ...kit.errors import AppError, NotFound, OutOfRange, Unavailable
from ...kit.mongo import Mongo
from ...kit.postgres import Database
from ...kit.stores import STORE_UNAVAILABLE
from .. import claims, events
from ..store import RunStore
from .buffer import EventBuffer
from .redis import RedisEventBus

_POLL_SECONDS = 0.5  # of MongoDB while nothing else comes
_RETRY_SECONDS = 0.1  # when an event is known to be missing
_SETTLING_SECONDS = 20.0  # that a run may take from its terminal event to the end of its claim

log = structlog.get_logger("runs")


class RemoteRun(EventBuffer):
    """The events of a run of another process."""

    def __init__(self, org_id: UUID, run_id: UUID) -> None:
        super().__init__(org_id, run_id)
        self.stream = 0
        self.accepts = False  # events of Redis: after the first look into MongoDB, while none is missing
        self.readers = 0
        self.error: AppError | None = None  # that readers get at the end in place of a terminal event
        self.missing = asyncio.Event()  # an event is missing: read MongoDB at once
        self.task: asyncio.Task[None] | None = None

    def receive(self, first: int, received: list[bytes]) -> None:
        """Take events from Redis."""
        if first > self.next_sequence:
            self.accepts = False
            self.missing.set()
        elif fresh := received[self.next_sequence - first :]:
            self._add(fresh)
            if events.is_terminal(fresh[-1]):
                self.end()

    def receive_stored(self, stored: list[bytes]) -> None:
        """Take the events that follow the last one from MongoDB, except for a terminal one."""
        self._add([event for event in stored if not events.is_terminal(event)])

    def close_stream(self) -> None:
        """Go on with the next stream in Redis: another server takes the run over."""
        self.stream += 1
        self.missing.set()

    def fail(self, error: AppError) -> None:
        self.error = error
        self.end()

    def _add(self, fresh: list[bytes]) -> None:
        if not self.ended.is_set():
            for event in fresh:
                self.append(event)


class RemoteRuns:
    """The remote runs that have readers in this process."""

    def __init__(self, db: Database, mongo: Mongo, bus: RedisEventBus) -> None:
        self._db = db
        self._mongo = mongo
        self._bus = bus
        self._runs: dict[UUID, RemoteRun] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def following(self, org_id: UUID, run_id: UUID) -> AsyncIterator[RemoteRun]:
        run = self._runs.get(run_id) or self._begin(org_id, run_id)
        run.readers += 1
        try:
            yield run
        finally:
            run.readers -= 1
            if not run.readers:
                self._forget(run)

    @property
    def idle(self) -> bool:
        """Whether nobody follows a remote run."""
        return not self._runs

    async def reach(self, run: RemoteRun, after: int) -> None:
        """Wait until the run has come as far as event `after`, or to its end.

        Raise OutOfRange if it has not and its server lives: only one that died can have sent what is not found.
        """
        if run.next_sequence > after:
            return
        async with self._db.read(run.org_id) as tx:
            before = await claims.find_lease(tx, run.run_id)
        while run.next_sequence <= after and not run.ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await run.change()
            async with self._db.read(run.org_id) as tx:
                lease = await claims.find_lease(tx, run.run_id)
            if before and lease and lease.id == before.id and lease.lease_end_time != before.lease_end_time:
                await self._read(run)
                break
            before = lease if before is None or lease is None or lease.id != before.id else before
        if run.next_sequence <= after and not run.ended.is_set():
            raise sequence_ahead(run)

    def tick(self, heartbeat_seconds: float) -> None:
        for run in list(self._runs.values()):
            run.tick(heartbeat_seconds)

    async def wait_until_idle(self, seconds: float) -> None:
        """Wait until nobody follows a remote run, or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()

    def close(self) -> None:
        """End the streams of the readers that are left: they can follow the run elsewhere."""
        for run in list(self._runs.values()):
            run.fail(Unavailable("The server is shutting down. Follow the run from where you are."))

    def _begin(self, org_id: UUID, run_id: UUID) -> RemoteRun:
        run = self._runs[run_id] = RemoteRun(org_id, run_id)
        run.task = asyncio.create_task(self._keep_reading(run))
        self._bus.follow(run)
        self._idle.clear()
        return run

    def _forget(self, run: RemoteRun) -> None:
        del self._runs[run.run_id]
        self._bus.unfollow(run)
        assert run.task
        run.task.cancel()
        if not self._runs:
            self._idle.set()

    async def _keep_reading(self, run: RemoteRun) -> None:
        """Read MongoDB whenever Redis does not bring enough."""
        known = 0
        while self._runs.get(run.run_id) is run and not run.ended.is_set():
            try:
                if run.missing.is_set() or known == len(run.events):
                    run.missing.clear()
                    await self._read(run)
                    run.accepts = True
            except STORE_UNAVAILABLE as error:
                log.warning("database_unavailable", error=type(error).__name__)
            except Exception:
                log.exception("follow_failed", run_id=str(run.run_id))
                run.fail(Unavailable())
            known = len(run.events)
            await asyncio.sleep(_RETRY_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS - _RETRY_SECONDS):
                    await run.missing.wait()

    async def _read(self, run: RemoteRun) -> None:
        position = len(run.events)
        stored = await RunStore(self._mongo, run.org_id).find_events(run.run_id, position)
        if stored is None:
            return run.fail(NotFound("run_id"))
        # Redis may have brought events while MongoDB was read.
        run.receive_stored(stored.after(len(run.events)))
        if terminal := stored.terminal:
            await self._finish(run, terminal)

    async def _finish(self, run: RemoteRun, terminal: bytes) -> None:
        """End with this event once the run is settled, unless Redis has brought it by then.

        Its sequence may be one that was used before, for an event that died with its server.
        """
        async with asyncio.timeout(_SETTLING_SECONDS):
            while not run.ended.is_set() and await self._is_open(run):
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY_SECONDS / 4):
                        await run.ended.wait()
        if not run.ended.is_set():
            run.append(terminal)
            run.end()

    async def _is_open(self, run: RemoteRun) -> bool:
        async with self._db.read(run.org_id) as tx:
            return await claims.is_open(tx, run.run_id)


def sequence_ahead(buffer: EventBuffer) -> OutOfRange:
    return OutOfRange(
        common_pb2.ERROR_REASON_SEQUENCE_AHEAD,
        f"after_sequence: the run has sent {buffer.next_sequence - 1} events so far.",
    )
