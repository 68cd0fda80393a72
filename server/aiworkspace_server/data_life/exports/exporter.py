"""Writes an export: the archive, piece by piece, into a file of the attempt's own.

Order of writes: the claim with a new file, the pieces, the object if there is an object store, the export as READY.
After a crash the next attempt starts from the beginning, and deletes the bytes of those before. A server that has lost
its claim deletes what it stored; if it dies, the periodic job does.
"""

import hashlib
import time
from contextlib import aclosing

import structlog

from ...documents.content import Files
from ...kit.mongo import Mongo
from ...kit.postgres import Database
from . import store
from .archive import Archive
from .store import Claim, Counts

CHECK_SECONDS = 2.0  # between two looks at the claim

log = structlog.get_logger("data_life")


class ClaimLost(Exception):
    """The export was deleted, or another server writes it: nothing must be stored any more."""


class Exporter:
    def __init__(self, db: Database, mongo: Mongo, files: Files, check_seconds: float = CHECK_SECONDS) -> None:
        self._db = db
        self._mongo = mongo
        self._files = files
        self._check_seconds = check_seconds

    async def write(self, claim: Claim) -> None:
        """Write the export of a claim. Raises ClaimLost."""
        content = self._files.of(claim.org_id)
        for file_id in claim.left_file_ids:
            await content.delete(file_id)
        try:
            await self._write(claim)
        except ClaimLost:
            await content.delete(claim.file_id)
            raise

    async def _write(self, claim: Claim) -> None:
        content, archive = self._files.of(claim.org_id), self._archive(claim)
        number, size, digest, checked = 0, 0, hashlib.sha256(), time.monotonic()
        async with aclosing(archive.pieces()) as pieces:
            async for piece in pieces:
                if time.monotonic() - checked >= self._check_seconds:
                    checked = time.monotonic()
                    await self._note_progress(claim, archive.counts(size))
                digest.update(piece)
                await content.append(claim.file_id, number, piece)
                number, size = number + 1, size + len(piece)
        await self._note_progress(claim, archive.counts(size))
        write_id = await content.complete(claim.file_id, size)
        async with self._db.write(claim.org_id) as tx:
            finished = await store.finish(tx, claim, archive.counts(size), digest.digest())
        if finished:
            log.info("export_ready", org_id=str(claim.org_id), export_id=str(claim.export_id), size_bytes=size)
        else:
            await content.delete(claim.file_id)
        if write_id:
            await content.end_write(write_id)
        if not finished:
            raise ClaimLost

    def _archive(self, claim: Claim) -> Archive:
        return Archive(self._db, self._mongo, self._files, claim.org_id, claim.export_id, claim.start_time)

    async def _note_progress(self, claim: Claim, counts: Counts) -> None:
        async with self._db.write(claim.org_id) as tx:
            if not await store.note_progress(tx, claim, counts):
                raise ClaimLost
