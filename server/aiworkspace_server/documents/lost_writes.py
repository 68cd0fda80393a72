"""Writes to object stores whose process died, or whose upload was given up meanwhile."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

import structlog

from ..kit.errors import Unavailable
from ..kit.jobs import Jobs
from ..kit.passes import Pass
from ..kit.postgres import Database, ReadSession
from ..kit.timestamps import now
from . import store
from .content import Files
from .objects import WRITE_SECONDS

_SETTLE = "documents.settle_writes"
_EVERY_MINUTE = "* * * * *"
_AT_ONCE = 500
_OVER = timedelta(seconds=2 * WRITE_SECONDS)  # after which no process can still be writing

HasFile = Callable[[ReadSession, UUID], Awaitable[bool]]  # whether something besides documents has a file

log = structlog.get_logger("documents")


class LostWrites:
    def __init__(self, db: Database, files: Files, has_file: HasFile) -> None:
        self._db = db
        self._files = files
        self._has_file = has_file

    def register(self, jobs: Jobs) -> None:
        jobs.every(_EVERY_MINUTE, _SETTLE, self.settle)

    async def settle(self) -> None:
        """Delete what old writes stored and nothing has. What an upload has is deleted when that is given up."""
        this = Pass(_SETTLE)
        for org_id, write_id in await self._files.list_writes(now() - _OVER, _AT_ONCE):
            with this.item(org_id=org_id, write_id=write_id):
                await self._settle(org_id, write_id)

    async def _settle(self, org_id: UUID, write_id: UUID) -> None:
        content = self._files.of(org_id)
        file_id = await content.find_write(write_id)
        if file_id is None:  # ended by another server
            return
        async with self._db.read(org_id) as tx:
            kept = await store.has_file(tx, file_id) or await self._has_file(tx, file_id)
        try:
            if not kept:
                await content.delete(file_id)
                log.info("lost_object_deleted", org_id=str(org_id), file_id=str(file_id))
        except Unavailable:  # which is logged; the others may be in another store
            return
        await content.end_write(write_id)
