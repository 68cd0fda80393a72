"""Ends versions of documents: at once for searches and the quota, then a job erases what is stored of them.

An ended version is a tombstone with ids only. A step that was in progress may still store something of it, so a second
pass erases again after every step has noticed; then the tombstone goes, too.
"""

from collections.abc import Collection
from functools import partial
from uuid import UUID

from aiworkspace.v1 import event_pb2 as event

from ..events.outbox import append
from ..kit.jobs import Jobs
from ..kit.mongo import Mongo
from ..kit.postgres import Database, WriteSession
from ..runs.citations.forgetting import forget_document
from ..search import index
from . import store, versions
from .content import Files
from .metering import Metering
from .models import Document, DocumentVersion, State
from .texts import Texts

ERASE_BYTES, ERASE_VERSION = "documents.erase_bytes", "documents.erase_version"


class Ending:
    def __init__(self, db: Database, mongo: Mongo, files: Files, jobs: Jobs, metering: Metering) -> None:
        self._db = db
        self._mongo = mongo
        self._files = files
        self._jobs = jobs
        self._metering = metering

    async def end_document(self, tx: WriteSession, document: Document) -> None:
        """Delete a locked document with all its versions."""
        found = await versions.lock_of(tx, document.id)
        await self._end(tx, document, {version.id for version, _ in found}, deleted=True)
        await tx.delete(document)
        await tx.flush()
        await store.release(tx, 0, 1)

    async def end_superseded(self, tx: WriteSession, document: Document, version: DocumentVersion) -> None:
        """End the versions of a document that neither answer searches nor are the given one."""
        found = await versions.lock_of(tx, document.id)
        keep = {version.id, document.ready_version_id}
        await self._end(tx, document, {each.id for each, _ in found} - keep)

    async def publish(self, tx: WriteSession, document: Document, version: DocumentVersion) -> None:
        """Let a version answer searches in place of all others of its document, which end."""
        version.state, document.ready_version_id = State.READY, version.id
        ready = event.EVENT_TYPE_DOCUMENT_READY
        append(tx, ready, document_id=document.id, workspace_id=document.workspace_id)
        await self.end_superseded(tx, document, version)

    async def _end(self, tx: WriteSession, document: Document, ids: Collection[UUID], *, deleted: bool = False) -> None:
        """End these versions. Bytes that no other version of the document has no longer count, and go if unused."""
        found = await versions.lock_of(tx, document.id)
        kept = {version.blob_id for version, _ in found if version.id not in ids}
        unused = {blob.id: blob.size_bytes for version, blob in found if version.id in ids and blob.id not in kept}
        for version, _ in found:
            if version.id in ids:
                await index.retire(tx, version.org_id, version.id)
                versions.end(version, deleted=deleted)
                await self._jobs.enqueue(tx, ERASE_VERSION, org_id=version.org_id, version_id=version.id)
        await tx.flush()
        for blob_id, size in unused.items():
            await store.release(tx, size, 0)
            if await store.drop_blob(tx, blob_id):
                await self.erase_bytes_soon(tx, document.org_id, blob_id)

    async def erase_bytes_soon(self, tx: WriteSession, org_id: UUID, file_id: UUID) -> None:
        await self._jobs.enqueue(tx, ERASE_BYTES, org_id=org_id, file_id=file_id)

    async def erase_bytes(self, org_id: str, file_id: str) -> None:
        """Delete the bytes that no document has any more. A job."""
        await self._files.of(UUID(org_id)).delete(UUID(file_id))

    async def erase_version(self, org_id: str, version_id: str) -> None:
        """Delete what is stored of an ended version. A job."""
        await self.erase(UUID(org_id), UUID(version_id))

    async def erase(self, org_id: UUID, version_id: UUID) -> bool:
        """Return False while a run in progress may still quote the version's document."""
        async with self._db.read(org_id) as tx:
            ended = await versions.find_ended(tx, version_id)
        if ended is None:
            return True
        workspace_id, document_id = ended
        await index.erase_version(partial(self._db.write, org_id), org_id, workspace_id, version_id)
        await Texts(self._mongo, org_id).delete(version_id)
        return document_id is None or await forget_document(self._mongo, org_id, document_id)

    async def forget(self, org_id: UUID, version_id: UUID, *, with_runs: bool = False) -> None:
        """Erase an ended version again, and then its tombstone, which stays while a run may still quote the document.

        `with_runs`: the runs are being erased, too.
        """
        if not (await self.erase(org_id, version_id) or with_runs):
            return
        async with self._db.write(org_id) as tx:
            await self._metering.settle_left(tx, org_id, version_id)
            await versions.forget(tx, version_id)
