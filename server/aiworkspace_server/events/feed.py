"""Wakes watchers when their organization has new events.

Twice a second, one query asks for the news of every organization that is watched in this process. NOTIFY would be
faster, but transactions that use it commit one at a time.
"""

import asyncio
from uuid import UUID

import structlog

from ..kit.errors import Unavailable
from ..kit.postgres import Database
from ..kit.stores import STORE_UNAVAILABLE
from . import store

_SECONDS = 0.5

log = structlog.get_logger("events")


class Feed:
    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: dict[asyncio.Future[None], tuple[UUID, int]] = {}
        self._polling: asyncio.Task[None] | None = None
        self._closed = False

    async def wait(self, org_id: UUID, after: int) -> None:
        """Wait until the organization has an event after this one. Raises Unavailable when the server stops."""
        if self._closed:
            raise _stopping()
        woken = asyncio.get_running_loop().create_future()
        self._waiting[woken] = org_id, after
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll())
        try:
            await woken
        finally:
            del self._waiting[woken]

    def close(self) -> None:
        """End all waits, so that streams do not delay the end of the server."""
        self._closed = True
        for woken in self._waiting:
            if not woken.done():
                woken.set_exception(_stopping())
        if self._polling:
            self._polling.cancel()

    async def _poll(self) -> None:
        while self._waiting:
            await asyncio.sleep(_SECONDS)
            try:
                await self._wake()
            except STORE_UNAVAILABLE as error:
                log.warning("database_unavailable", retry_in_seconds=_SECONDS, error=type(error).__name__)
            except Exception:
                log.exception("events_not_read", retry_in_seconds=_SECONDS)  # watchers need this task
        self._polling = None

    async def _wake(self) -> None:
        async with self._db.read() as tx:
            heads = await store.list_heads(tx, {org_id for org_id, _ in self._waiting.values()})
        for woken, (org_id, after) in self._waiting.items():
            if heads.get(org_id, 0) > after and not woken.done():
                woken.set_result(None)


def _stopping() -> Unavailable:
    return Unavailable("The server is stopping. Watch again after the last event that arrived.")
