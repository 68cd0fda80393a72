"""Streams of the bytes of uploads: what they store, and the documents that they finish.

A stream can outlive its upload: it is cancelled or expires, or its owner is erased. The stream notices within
CHECK_SECONDS, before it stores a piece, and whenever it ends. Then it deletes what is stored.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple
from uuid import UUID

from aiworkspace.v1 import common_pb2 as pb
from aiworkspace.v1 import document_pb2
from aiworkspace.v1 import event_pb2 as event

from ..events.outbox import append
from ..kit.errors import Aborted, InvalidArgument, NotFound
from ..kit.ids import new_id
from ..kit.jobs import Jobs
from ..kit.postgres import Database, WriteSession
from ..kit.timestamps import now
from ..orgs.holds import check_workspace
from . import store, versions
from .content import Files, PieceExists, PiecesMissing
from .ending import Ending
from .ingestion import INGEST
from .models import Document, Upload
from .receiver import Mismatch, Receiver
from .store import FoundDocument

CHECK_SECONDS = 10.0  # between two checks whether a stream may still store pieces

Messages = AsyncIterator[document_pb2.UploadDocumentRequest]
Then = Callable[[WriteSession, Upload], Awaitable[object]]  # what else is written when an upload has become a document


class Progress(NamedTuple):
    """An upload, and what is stored of it."""

    upload: Upload
    committed_bytes: int
    found: FoundDocument | None = None  # once it is finished


class Turn:
    """The time in which a stream writes its upload: until the upload ends, or another stream takes over."""

    def __init__(self, db: Database, org_id: UUID, upload_id: UUID, check_seconds: float) -> None:
        self._db = db
        self._org_id = org_id
        self._upload_id = upload_id
        self._check_seconds = check_seconds
        self._checked = 0.0
        self.stream_id = new_id()

    async def begin(self) -> Upload:
        self._checked = time.monotonic()
        async with self._db.write(self._org_id) as tx:
            upload = await store.take_over(tx, self._upload_id, self.stream_id)
        if upload is None:
            raise NotFound("upload_id")
        return upload

    async def check(self) -> None:
        """Raise NotFound or Aborted if it is over. Asks only now and then: this is for each piece."""
        if time.monotonic() - self._checked >= self._check_seconds:
            await self.check_now()

    async def check_now(self) -> None:
        self._checked = time.monotonic()  # before the question: what is stored until the next one may be too late
        async with self._db.read(self._org_id) as tx:
            upload = await store.find_upload(tx, self._upload_id)
        self.check_row(upload)

    def check_row(self, upload: Upload | None) -> Upload:
        if upload is None or upload.end_time:
            raise NotFound("upload_id")
        if upload.stream_id != self.stream_id:
            raise _taken_over()
        return upload


class Streams:
    """Takes the streams of all uploads."""

    def __init__(
        self, db: Database, files: Files, jobs: Jobs, ending: Ending, check_seconds: float = CHECK_SECONDS
    ) -> None:
        self._db = db
        self._files = files
        self._jobs = jobs
        self._ending = ending
        self._check_seconds = check_seconds

    async def receive(self, org_id: UUID, upload_id: UUID, messages: Messages, then: Then | None = None) -> Progress:
        """Take the bytes of a stream and, if it finishes, make the document. `then` is a part of its transaction."""
        turn = Turn(self._db, org_id, upload_id, self._check_seconds)
        upload = await turn.begin()
        if upload.document_id:
            return await self._finished(org_id, upload, upload.document_id)
        try:
            return await self._take(upload, turn, messages, then)
        finally:
            await self._delete_if_ended(org_id, upload_id)

    async def _take(self, upload: Upload, turn: Turn, messages: Messages, then: Then | None) -> Progress:
        content = self._files.of(upload.org_id)
        receiver = Receiver(upload, content, await content.stored(upload.id), turn.check)
        try:
            finishing = await receiver.take_all(messages)
            if finishing:
                await receiver.check_content()
            await turn.check_now()
            if not finishing:
                return Progress(upload, receiver.committed_bytes)
            write_id = await content.complete(upload.id, upload.size_bytes)
        except Mismatch as mismatch:
            await self._drop(upload, turn)
            raise InvalidArgument({"data": str(mismatch)}, pb.ERROR_REASON_UPLOAD_MISMATCH) from None
        except (PieceExists, PiecesMissing):
            await turn.check_now()
            raise _taken_over() from None
        progress = await self._make_document(upload, turn, then)
        if write_id:
            await content.end_write(write_id)
        return progress

    async def _delete_if_ended(self, org_id: UUID, upload_id: UUID) -> None:
        """Delete what a stream has stored of an upload that has ended, or is gone, and is no document."""
        async with self._db.read(org_id) as tx:
            kept = await store.has_file(tx, upload_id)
        if not kept:
            await self._files.of(org_id).delete(upload_id)

    async def _make_document(self, known: Upload, turn: Turn, then: Then | None) -> Progress:
        org_id, upload_id = known.org_id, known.id
        async with self._db.write(org_id, known.user_id) as tx:
            upload = turn.check_row(await store.lock_upload(tx, upload_id))
            if upload.document_id is None:
                if not await store.hold_workspace(tx, upload.workspace_id):
                    raise NotFound("workspace_id")
                blob_id = await store.keep_blob(tx, org_id, upload_id, upload.sha256, upload.size_bytes)
                if blob_id != upload_id:
                    await self._ending.erase_bytes_soon(tx, org_id, upload_id)
                await self._add_version(tx, upload, blob_id)
                if then:
                    await then(tx, upload)
            document_id = upload.document_id
        assert document_id
        return await self._finished(org_id, upload, document_id)

    async def _add_version(self, tx: WriteSession, upload: Upload, blob_id: UUID) -> None:
        """Make the document of an upload, or a new version of the document that it replaces."""
        if upload.replaces_id is None:
            document = await _add_document(tx, upload)
        elif found := await store.lock_document(tx, upload.replaces_id):
            document = found
            await check_workspace(tx, upload.org_id, document.workspace_id)  # the version before is erased
            document.version += 1
            document.update_time = now()
        else:
            raise NotFound("upload_id")  # the upload expires
        before = await versions.lock_of(tx, document.id)
        version = await versions.add(tx, document, blob_id)
        if blob_id in {blob.id for _, blob in before}:
            await store.release(tx, upload.size_bytes, 0)  # these bytes of the document count already
        await self._ending.end_superseded(tx, document, version)
        upload.document_id = document.id
        await tx.flush()
        if upload.replaces_id is None:
            there = await store.hold_collections(tx, upload.workspace_id, upload.collection_ids)
            await store.put_into(tx, upload.org_id, document.id, there)
        await self._jobs.enqueue_once(tx, INGEST, org_id=upload.org_id)
        uploaded = event.EVENT_TYPE_DOCUMENT_UPLOADED
        append(tx, uploaded, document_id=document.id, workspace_id=document.workspace_id)

    async def _finished(self, org_id: UUID, upload: Upload, document_id: UUID) -> Progress:
        async with self._db.read(org_id) as tx:
            found = await store.find_document(tx, document_id)
        if found is None:  # deleted since
            raise NotFound("upload_id")
        return Progress(upload, upload.size_bytes, found)

    async def _drop(self, upload: Upload, turn: Turn) -> None:
        """Give up an upload whose bytes are wrong, unless another stream brings them now."""
        async with self._db.write(upload.org_id) as tx:
            await store.give_up(tx, turn.check_row(await store.lock_upload(tx, upload.id)))


async def _add_document(tx: WriteSession, upload: Upload) -> Document:
    time = now()
    document = Document(
        org_id=upload.org_id,
        id=new_id(),
        workspace_id=upload.workspace_id,
        user_id=upload.user_id,
        latest_version_id=new_id(),  # replaced when the version is added
        name=upload.name,
        version=1,
        create_time=time,
        update_time=time,
    )
    tx.add(document)
    await tx.flush()
    return document


def _taken_over() -> Aborted:
    return Aborted(pb.ERROR_REASON_UPLOAD_TAKEN_OVER, "Another stream of this upload has taken over.")
