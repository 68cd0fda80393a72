"""Jobs of exports: writing one, and deleting what was deleted, has expired or was left by an attempt that was lost."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import structlog

from ...documents.content import PIECE_SECONDS, Files
from ...kit.errors import Unavailable
from ...kit.jobs import SLOW_QUEUE, Jobs
from ...kit.passes import Pass
from ...kit.postgres import Database, WriteSession
from ...kit.stores import STORE_UNAVAILABLE
from ...kit.timestamps import now
from . import store
from .exporter import CHECK_SECONDS, ClaimLost, Exporter
from .models import Export, FailureReason

EXPORT, ERASE = "data_life.export", "data_life.erase_export"
MOST_ATTEMPTS = 10  # the last one after about 17 minutes of errors
_PURGE = "data_life.purge_exports"
_EVERY_10_MINUTES = "*/10 * * * *"
_AT_ONCE = 500
# After which no server that has lost its claim can still store a piece. Twice that, because clocks differ.
_SETTLED = timedelta(seconds=2 * (CHECK_SECONDS + PIECE_SECONDS))

log = structlog.get_logger("data_life")


async def delete_all(tx: WriteSession, jobs: Jobs, org_id: UUID) -> None:
    """Delete all exports of an organization, and end one that is in progress."""
    for export_id in await store.mark_all_deleted(tx):
        await jobs.enqueue(tx, ERASE, org_id=org_id, export_id=export_id)


class ExportJobs:
    def __init__(self, db: Database, files: Files, exporter: Exporter) -> None:
        self._db = db
        self._files = files
        self._exporter = exporter

    def register(self, jobs: Jobs) -> None:
        """Declare the jobs. Needed to enqueue them, too."""
        jobs.add(EXPORT, self.export, SLOW_QUEUE)
        jobs.add(ERASE, self.erase, SLOW_QUEUE)
        jobs.every(_EVERY_10_MINUTES, _PURGE, self.purge)

    async def export(self, org_id: str, export_id: str) -> None:
        """Write an export, unless it was deleted. Raises errors after which the job is to be retried."""
        async with self._db.write(UUID(org_id)) as tx:
            claim = await store.claim(tx, UUID(export_id), MOST_ATTEMPTS)
        if claim is None:
            return
        try:
            await self._exporter.write(claim)
        except ClaimLost:
            log.info("export_claim_lost", org_id=org_id, export_id=export_id)
        except Exception as error:
            if not claim.is_last:
                raise
            unavailable = isinstance(error, (*STORE_UNAVAILABLE, Unavailable))
            reason = FailureReason.STORE_UNAVAILABLE if unavailable else FailureReason.INTERNAL
            log.exception("export_failed", org_id=org_id, export_id=export_id)
            async with self._db.write(claim.org_id) as tx:
                await store.fail(tx, claim, reason)

    async def erase(self, org_id: str, export_id: str) -> None:
        """Delete the bytes of an export that was deleted. `purge` does so again, and deletes the row."""
        async with self._db.read(UUID(org_id)) as tx:
            export = await store.find_row(tx, UUID(export_id))
        if export and export.delete_time:
            await self._delete_files(export.org_id, _files_of(export))

    async def purge(self) -> None:
        """Delete exports that have expired or were deleted, and files of attempts that were lost."""
        async with self._db.read() as tx:
            ended = await store.list_ended(tx, now() - _SETTLED, _AT_ONCE)
        this = Pass(_PURGE)
        for org_id, export_id in ended:
            with this.item(org_id=org_id, export_id=export_id):
                await self._purge(org_id, export_id)

    async def _purge(self, org_id: UUID, export_id: UUID) -> None:
        async with self._db.read(org_id) as tx:
            export = await store.find_row(tx, export_id)
        if export is None:
            return
        gone = export.delete_time or (export.expire_time and export.expire_time <= now())
        await self._delete_files(org_id, _files_of(export) if gone else export.left_file_ids)
        async with self._db.write(org_id) as tx:
            if gone:
                await store.forget(tx, export_id)
            else:
                await store.forget_left(tx, export_id, export.left_file_ids)

    async def _delete_files(self, org_id: UUID, file_ids: Sequence[UUID]) -> None:
        content = self._files.of(org_id)
        for file_id in file_ids:
            await content.delete(file_id)


def _files_of(export: Export) -> list[UUID]:
    return [*export.left_file_ids, *([export.file_id] if export.file_id else [])]
