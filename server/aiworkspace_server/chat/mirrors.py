"""Runs in progress in other processes, as this one follows them: however many readers, each run is read once.

MongoDB has what was stored of a run, the relay what came since. When the relay is silent or has left something out,
MongoDB is asked again; so without Redis readers get everything too, at the pace at which it is stored.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import structlog

from aiworkspace.v1 import common_pb2

from ..kit.errors import AppError, NotFound, OutOfRange, Unavailable
from ..kit.mongo import Mongo
from ..kit.postgres import Database
from ..kit.stores import STORE_UNAVAILABLE
from . import claims, events
from .feed import Feed
from .relay import Relay
from .store import ChatStore

_LOOK_SECONDS = 0.5  # between looks into MongoDB when nothing else comes
_AGAIN_SECONDS = 0.1  # when something is known to be missing
_SETTLING_SECONDS = 20.0  # that a run may take from its terminal event to the end of its claim

log = structlog.get_logger("mirrors")


class Mirror(Feed):
    """The events of a run of another process."""

    def __init__(self, org_id: UUID, run_id: UUID) -> None:
        super().__init__(org_id, run_id)
        self.stream = 0
        self.wants = False  # what the relay has: from the first look into MongoDB on, while nothing is missing
        self.readers = 0
        self.error: AppError | None = None  # what readers get at the end instead of a terminal event
        self.missing = asyncio.Event()  # whether MongoDB has to be asked at once
        self.task: asyncio.Task[None] | None = None

    def receive(self, first: int, said: list[bytes]) -> None:
        """Takes events from the relay."""
        if first > self.next_sequence:
            self.wants = False
            self.missing.set()
        elif fresh := said[self.next_sequence - first :]:
            self._add(fresh)
            if events.is_terminal(fresh[-1]):
                self.end()

    def receive_stored(self, first: int, said: list[bytes]) -> None:
        """Takes events from MongoDB, all but a terminal one."""
        self._add([event for event in said[self.next_sequence - first :] if not events.is_terminal(event)])

    def close_stream(self) -> None:
        """Somebody takes the run over."""
        self.stream += 1
        self.missing.set()

    def fail(self, error: AppError) -> None:
        self.error = error
        self.end()

    def _add(self, fresh: list[bytes]) -> None:
        if not self.ended.is_set():
            for event in fresh:
                self.append(event)


class Mirrors:
    """Those that somebody follows in this process."""

    def __init__(self, db: Database, mongo: Mongo, relay: Relay) -> None:
        self._db = db
        self._mongo = mongo
        self._relay = relay
        self._mirrors: dict[UUID, Mirror] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def following(self, org_id: UUID, run_id: UUID) -> AsyncIterator[Mirror]:
        mirror = self._mirrors.get(run_id) or self._begin(org_id, run_id)
        mirror.readers += 1
        try:
            yield mirror
        finally:
            mirror.readers -= 1
            if not mirror.readers:
                self._forget(mirror)

    async def reach(self, mirror: Mirror, after: int) -> None:
        """Waits until the run has come as far as `after`, or to its end.

        Raises OutOfRange when it has not and its server lives: only one that died has said what is not to be found.
        """
        if mirror.next_sequence > after:
            return
        async with self._db.read(mirror.org_id) as tx:
            before = await claims.find_lease(tx, mirror.run_id)
        while mirror.next_sequence <= after and not mirror.ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(mirror.change(), _LOOK_SECONDS)
            async with self._db.read(mirror.org_id) as tx:
                lease = await claims.find_lease(tx, mirror.run_id)
            if before and lease and lease.id == before.id and lease.lease_end_time > before.lease_end_time:
                await self._look(mirror)
                break
            before = lease if before is None or lease is None or lease.id != before.id else before
        if mirror.next_sequence <= after and not mirror.ended.is_set():
            raise sequence_ahead(mirror)

    def beat(self, seconds: int) -> None:
        for mirror in list(self._mirrors.values()):
            mirror.beat(seconds)

    async def wait(self, seconds: float) -> None:
        """Until nobody follows anything, or for so long."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)

    def close(self) -> None:
        """Sends the readers that are left to another process."""
        for mirror in list(self._mirrors.values()):
            mirror.fail(Unavailable("The server is shutting down. Follow the run from where you are."))

    def _begin(self, org_id: UUID, run_id: UUID) -> Mirror:
        mirror = self._mirrors[run_id] = Mirror(org_id, run_id)
        mirror.task = asyncio.create_task(self._keep(mirror))
        self._relay.follow(mirror)
        self._idle.clear()
        return mirror

    def _forget(self, mirror: Mirror) -> None:
        del self._mirrors[mirror.run_id]
        self._relay.leave(mirror)
        assert mirror.task
        mirror.task.cancel()
        if not self._mirrors:
            self._idle.set()

    async def _keep(self, mirror: Mirror) -> None:
        """Asks MongoDB whenever the relay does not say enough."""
        known = 0
        while not mirror.ended.is_set():
            try:
                if mirror.missing.is_set() or known == len(mirror.events):
                    mirror.missing.clear()
                    await self._look(mirror)
                    mirror.wants = True
            except STORE_UNAVAILABLE as error:
                log.warning("store away, looking again", error=type(error).__name__)
            except Exception:
                log.exception("run cannot be followed", run_id=str(mirror.run_id))
                mirror.fail(Unavailable())
            known = len(mirror.events)
            await asyncio.sleep(_AGAIN_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(mirror.missing.wait(), _LOOK_SECONDS - _AGAIN_SECONDS)

    async def _look(self, mirror: Mirror) -> None:
        store, position = ChatStore(self._mongo, mirror.org_id), len(mirror.events)
        stored = await store.events_after(mirror.run_id, position)
        mirror.receive_stored(position + 1, stored)
        if not stored:
            run = await store.find_run(mirror.run_id)
            if run is None:
                mirror.fail(NotFound("run_id"))
            elif run["state"] != "running":
                await self._finish(mirror, await store.last_event(mirror.run_id))
        elif events.is_terminal(stored[-1]):
            await self._finish(mirror, stored[-1])

    async def _finish(self, mirror: Mirror, last: bytes | None) -> None:
        """Ends with this event once the run is settled, unless the relay has brought it by then.

        Its sequence may be one that was used before, for an event that died with its server.
        """
        if last is None or not events.is_terminal(last):
            return
        async with asyncio.timeout(_SETTLING_SECONDS):
            while not mirror.ended.is_set() and await self._is_open(mirror):
                with suppress(TimeoutError):
                    await asyncio.wait_for(mirror.ended.wait(), _AGAIN_SECONDS / 4)
        if not mirror.ended.is_set():
            mirror.append(last)
            mirror.end()

    async def _is_open(self, mirror: Mirror) -> bool:
        async with self._db.read(mirror.org_id) as tx:
            return await claims.is_open(tx, mirror.run_id)


def sequence_ahead(feed: Feed) -> OutOfRange:
    return OutOfRange(
        common_pb2.ERROR_REASON_SEQUENCE_AHEAD,
        f"after_sequence: the run has sent {feed.next_sequence - 1} events so far.",
    )
