"""Use cases of documents: uploads from their beginning to the document, changes and deletions."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from aiworkspace.v1 import common_pb2 as pb
from aiworkspace.v1 import document_pb2

from ..kit.errors import Aborted, InvalidArgument, NotFound, OutOfRange, RateLimited, check_etag
from ..kit.ids import new_id
from ..kit.jobs import Jobs
from ..kit.postgres import Database, WriteSession
from ..kit.timestamps import now
from . import store
from .content import PIECE_BYTES, Content, Files, PieceExists, PiecesMissing, Stored
from .models import Collection, Document, Upload
from .store import FoundDocument, Quota

_LIFETIME = timedelta(days=1)  # of an upload
ERASE_BYTES = "documents.erase_bytes"


class Progress(NamedTuple):
    """An upload, and what is stored of it."""

    upload: Upload
    committed_bytes: int
    found: FoundDocument | None = None  # once it is finished


class DocumentService:
    def __init__(self, db: Database, files: Files, jobs: Jobs, quota: Quota, largest_bytes: int) -> None:
        """`largest_bytes`: of one document."""
        self._db = db
        self._files = files
        self._jobs = jobs
        self._quota = quota
        self._largest_bytes = largest_bytes

    # Uploads

    async def create_upload(
        self, tx: WriteSession, org_id: UUID, workspace_id: UUID, user_id: UUID, values: dict[str, Any]
    ) -> Upload:
        """Begin an upload and reserve room for it. `values`: name, size_bytes, sha256 and collection_ids."""
        if values["size_bytes"] > self._largest_bytes:
            raise InvalidArgument({"size_bytes": f"must be at most {self._largest_bytes:,} on this server"})
        await _hold_workspace(tx, workspace_id)
        await _check_collections(tx, workspace_id, values["collection_ids"], "collection_ids")
        if not await store.reserve(tx, org_id, values["size_bytes"], self._quota):
            raise await self._refusal(tx)
        time = now()
        upload = Upload(
            org_id=org_id,
            id=new_id(),
            workspace_id=workspace_id,
            user_id=user_id,
            **values,
            create_time=time,
            expire_time=time + _LIFETIME,
        )
        tx.add(upload)
        return upload

    async def _refusal(self, tx: WriteSession) -> RateLimited:
        used = await store.used(tx)
        kind, limit, taken = "bytes", self._quota.size_bytes, used.size_bytes
        if used.document_count >= self._quota.document_count:
            kind, limit, taken = "count", self._quota.document_count, used.document_count
        message = f"The organization has no room: {taken:,} of {limit:,} {kind} are used. Delete documents first."
        metadata = {"quota": kind, "limit": str(limit), "used": str(taken)}
        return RateLimited("org", message, None, pb.ERROR_REASON_DOCUMENT_QUOTA, metadata)

    async def find_upload(self, org_id: UUID, upload_id: UUID) -> Progress:
        async with self._db.read(org_id) as tx:
            upload = await store.find_upload(tx, upload_id)
        if upload is None:
            raise NotFound("upload_id")
        if upload.document_id:
            return Progress(upload, upload.size_bytes)
        return Progress(upload, (await self._files.of(org_id).stored(upload_id)).size)

    async def cancel_upload(self, org_id: UUID, upload_id: UUID) -> None:
        """Give up an upload that is not finished, and delete what is stored of it."""
        async with self._db.write(org_id) as tx:
            upload = await store.lock_upload(tx, upload_id)
            if upload is None or upload.end_time:
                raise NotFound("upload_id")
            if upload.document_id is None:
                await _give_up(tx, upload)
        if upload.document_id is None:
            await self._files.of(org_id).delete(upload_id)

    async def receive(
        self, org_id: UUID, upload_id: UUID, messages: AsyncIterator[document_pb2.UploadDocumentRequest]
    ) -> Progress:
        """Take the bytes of a stream and, if it finishes, make the document."""
        stream_id = new_id()
        async with self._db.write(org_id) as tx:
            upload = await store.take_over(tx, upload_id, stream_id)
        if upload is None:
            raise NotFound("upload_id")
        if upload.document_id:
            return await self._finished(org_id, upload, upload.document_id)
        content = self._files.of(org_id)
        receiver = _Receiver(upload, content, await content.stored(upload_id))
        try:
            if not await receiver.take_all(messages):
                return Progress(upload, receiver.committed_bytes)
            await receiver.check_content()
            write_id = await content.complete(upload_id, upload.size_bytes)
        except _Mismatch as mismatch:
            await self._drop(org_id, upload_id, stream_id)
            raise InvalidArgument({"data": str(mismatch)}, pb.ERROR_REASON_UPLOAD_MISMATCH) from None
        except (PieceExists, PiecesMissing):
            raise _taken_over() from None
        progress = await self._make_document(org_id, upload_id, stream_id)
        if write_id:
            await content.end_write(write_id)
        return progress

    async def _make_document(self, org_id: UUID, upload_id: UUID, stream_id: UUID) -> Progress:
        async with self._db.write(org_id) as tx:
            upload = await store.lock_upload(tx, upload_id)
            if upload is None or upload.end_time:
                raise NotFound("upload_id")
            if upload.stream_id != stream_id:
                raise _taken_over()
            if upload.document_id is None:
                await _hold_workspace(tx, upload.workspace_id)
                blob_id = await store.keep_blob(tx, org_id, upload_id, upload.sha256, upload.size_bytes)
                if blob_id != upload_id:
                    await self._jobs.enqueue(tx, ERASE_BYTES, org_id=org_id, file_id=upload_id)
                await _add_document(tx, upload, blob_id)
            document_id = upload.document_id
        assert document_id
        return await self._finished(org_id, upload, document_id)

    async def _finished(self, org_id: UUID, upload: Upload, document_id: UUID) -> Progress:
        async with self._db.read(org_id) as tx:
            found = await store.find_document(tx, document_id)
        if found is None:  # deleted since
            raise NotFound("upload_id")
        return Progress(upload, upload.size_bytes, found)

    async def _drop(self, org_id: UUID, upload_id: UUID, stream_id: UUID) -> None:
        """Give up an upload whose bytes are wrong, unless another stream brings them now."""
        async with self._db.write(org_id) as tx:
            upload = await store.lock_upload(tx, upload_id)
            if upload is None or upload.end_time:
                return
            if upload.stream_id != stream_id:
                raise _taken_over()
            await _give_up(tx, upload)
        await self._files.of(org_id).delete(upload_id)

    async def end_expired(self, org_id: UUID, upload_id: UUID) -> None:
        """Give up an upload that has expired. What is left of a finished one is deleted."""
        async with self._db.write(org_id) as tx:
            upload = await store.lock_upload(tx, upload_id)
            if upload and upload.document_id:
                await tx.delete(upload)
            elif upload and not upload.end_time:
                await _give_up(tx, upload)

    async def erase_upload(self, org_id: UUID, upload_id: UUID) -> None:
        """Delete an upload, with everything that is stored of it unless there is a document."""
        async with self._db.write(org_id) as tx:
            upload = await store.lock_upload(tx, upload_id)
            if upload is None:
                return
            if not (upload.document_id or upload.end_time):
                await store.release(tx, upload.size_bytes)
            await tx.delete(upload)
        if upload.document_id is None:
            await self._files.of(org_id).delete(upload_id)

    async def forget_ended(self, org_id: UUID, upload_id: UUID) -> None:
        """Delete an upload that was given up so long ago that no stream stores anything of it any more."""
        await self._files.of(org_id).delete(upload_id)
        async with self._db.write(org_id) as tx:
            upload = await store.lock_upload(tx, upload_id)
            if upload and upload.end_time:
                await tx.delete(upload)

    # Documents

    async def update_document(
        self, org_id: UUID, document_id: UUID, etag: str, values: dict[str, Any]
    ) -> FoundDocument:
        """Change a document. `values`: name and collection_ids, or one of them."""
        if "name" in values and not values["name"]:
            raise InvalidArgument({"document.name": "must not be empty"})
        async with self._db.write(org_id) as tx:
            document = await store.lock_document(tx, document_id)
            if document is None:
                raise NotFound("document.document_id")
            check_etag(etag, document.version, "document.etag")
            document.name = values.get("name", document.name)
            if "collection_ids" in values:
                ids = [UUID(each) for each in values["collection_ids"]]
                await _check_collections(tx, document.workspace_id, ids, "document.collection_ids")
                await store.put_into(tx, org_id, document_id, ids)
            document.version += 1
            document.update_time = now()
            await tx.flush()
            found = await store.find_document(tx, document_id)
        assert found
        return found

    async def delete_document(self, org_id: UUID, document_id: UUID) -> bool:
        """Delete a document, and its bytes if no other one has them. Return False if there was none."""
        async with self._db.write(org_id) as tx:
            document = await store.lock_document(tx, document_id)
            if document is None:
                return False
            found = await store.find_document(tx, document_id)
            assert found
            await tx.delete(document)
            await tx.flush()
            await store.release(tx, found.blob.size_bytes)
            if await store.drop_blob(tx, document.blob_id):
                await self._jobs.enqueue(tx, ERASE_BYTES, org_id=org_id, file_id=document.blob_id)
        return True

    async def erase_bytes(self, org_id: str, file_id: str) -> None:
        """Delete the bytes that no document has any more. A job."""
        await self._files.of(UUID(org_id)).delete(UUID(file_id))

    # Collections

    async def create_collection(
        self, tx: WriteSession, org_id: UUID, workspace_id: UUID, name: str, description: str
    ) -> Collection:
        await _hold_workspace(tx, workspace_id)
        time = now()
        collection = Collection(
            org_id=org_id,
            id=new_id(),
            workspace_id=workspace_id,
            name=name,
            description=description,
            version=1,
            create_time=time,
            update_time=time,
        )
        tx.add(collection)
        return collection

    async def update_collection(
        self, tx: WriteSession, collection_id: UUID, etag: str, values: dict[str, Any]
    ) -> Collection:
        if "name" in values and not values["name"]:
            raise InvalidArgument({"collection.name": "must not be empty"})
        collection = await store.lock_collection(tx, collection_id)
        if collection is None:
            raise NotFound("collection.collection_id")
        check_etag(etag, collection.version, "collection.etag")
        for name, value in values.items():
            setattr(collection, name, value)
        collection.version += 1
        collection.update_time = now()
        return collection


class _Mismatch(Exception):
    """The bytes are not those that were declared."""


class _Receiver:
    """Takes the bytes of one stream, and stores them piece by piece."""

    def __init__(self, upload: Upload, content: Content, stored: Stored) -> None:
        self._upload = upload
        self._content = content
        self._pieces = stored.pieces
        self.committed_bytes = stored.size
        self._received = stored.size
        self._rest = bytearray()  # what is not a whole piece yet
        # Of everything, if this stream brings everything; otherwise the stored bytes are read again at the end.
        self._hash = hashlib.sha256() if stored.size == 0 else None

    async def take_all(self, messages: AsyncIterator[document_pb2.UploadDocumentRequest]) -> bool:
        """Take messages up to the one that finishes. Return False if there is none."""
        async for message in messages:
            self._take(message.offset, message.data)
            while len(self._rest) >= PIECE_BYTES:
                await self._store(PIECE_BYTES)
            if message.finish:
                if self._received < self._upload.size_bytes:
                    raise self._wrong_size()
                if self._rest:
                    await self._store(len(self._rest))
                return True
        return False

    def _take(self, offset: int, data: bytes) -> None:
        if offset > self._received:
            message = f"offset: the next byte is {self._received:,}; go on at {self.committed_bytes:,} in a new stream."
            metadata = {"committed_bytes": str(self.committed_bytes)}
            raise OutOfRange(pb.ERROR_REASON_UPLOAD_GAP, message, metadata=metadata)
        new = data[self._received - offset :]
        self._received += len(new)
        if self._received > self._upload.size_bytes:
            raise self._wrong_size()
        if self._hash:
            self._hash.update(new)
        self._rest += new

    async def _store(self, size: int) -> None:
        await self._content.append(self._upload.id, self._pieces, bytes(self._rest[:size]))
        del self._rest[:size]
        self._pieces += 1
        self.committed_bytes += size

    async def check_content(self) -> None:
        """Raise _Mismatch if the SHA-256 of what is stored is not the declared one."""
        found = self._hash
        if found is None:
            found = hashlib.sha256()
            async for part in self._content.read(self._upload.id):
                found.update(part)
        if found.digest() != self._upload.sha256:
            raise _Mismatch(f"has the SHA-256 {found.hexdigest()}, not {self._upload.sha256.hex()}")

    def _wrong_size(self) -> _Mismatch:
        more = "more than " if self._received > self._upload.size_bytes else ""
        given = min(self._received, self._upload.size_bytes)
        return _Mismatch(f"has {more}{given:,} bytes, not {self._upload.size_bytes:,}")


async def _hold_workspace(tx: WriteSession, workspace_id: UUID) -> None:
    if not await store.hold_workspace(tx, workspace_id):
        raise NotFound("workspace_id")


async def _check_collections(tx: WriteSession, workspace_id: UUID, ids: Sequence[UUID], field: str) -> None:
    if await store.hold_collections(tx, workspace_id, ids) != set(ids):
        raise NotFound(field)


async def _give_up(tx: WriteSession, upload: Upload) -> None:
    """Mark an upload as given up, and release its room."""
    upload.end_time = now()
    upload.name = ""
    await store.release(tx, upload.size_bytes)


async def _add_document(tx: WriteSession, upload: Upload, blob_id: UUID) -> None:
    """Make the document of an upload, in those of its collections that still exist."""
    time = now()
    document = Document(
        org_id=upload.org_id,
        id=new_id(),
        workspace_id=upload.workspace_id,
        user_id=upload.user_id,
        blob_id=blob_id,
        name=upload.name,
        version=1,
        create_time=time,
        update_time=time,
    )
    tx.add(document)
    await tx.flush()
    there = await store.hold_collections(tx, upload.workspace_id, upload.collection_ids)
    await store.put_into(tx, upload.org_id, document.id, there)
    upload.document_id = document.id


def _taken_over() -> Aborted:
    return Aborted(pb.ERROR_REASON_UPLOAD_TAKEN_OVER, "Another stream of this upload has taken over.")
