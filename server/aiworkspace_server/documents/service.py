"""Use cases of documents: uploads from their beginning to the document, changes and deletions."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from aiworkspace.v1 import common_pb2 as pb
from aiworkspace.v1 import event_pb2 as event

from ..events.outbox import append
from ..kit.errors import FailedPrecondition, InvalidArgument, NotFound, RateLimited, check_etag
from ..kit.ids import new_id
from ..kit.jobs import Jobs
from ..kit.postgres import Database, WriteSession
from ..kit.timestamps import now
from ..orgs.holds import check_workspace
from . import store
from .content import Files
from .ending import Ending
from .ingestion import INGEST
from .models import Collection, State, Upload
from .store import FoundDocument, Quota
from .streams import Messages, Progress, Streams, Then

_LIFETIME = timedelta(days=1)  # of an upload


class DocumentService:
    def __init__(
        self, db: Database, files: Files, jobs: Jobs, ending: Ending, quota: Quota, largest_bytes: int
    ) -> None:
        """`largest_bytes`: of one document."""
        self._db = db
        self._files = files
        self._jobs = jobs
        self._ending = ending
        self._quota = quota
        self._largest_bytes = largest_bytes
        self._streams = Streams(db, files, jobs, ending)

    # Uploads

    async def create_upload(
        self, tx: WriteSession, org_id: UUID, workspace_id: UUID, user_id: UUID, values: dict[str, Any]
    ) -> Upload:
        """Begin an upload and reserve room for it. `values`: name, size_bytes, sha256 and collection_ids."""
        self._check_size(values["size_bytes"])
        await _hold_workspace(tx, workspace_id)
        await _check_collections(tx, workspace_id, values["collection_ids"], "collection_ids")
        return await self._add_upload(tx, org_id, workspace_id, user_id, values, None)

    async def replace_document(
        self, tx: WriteSession, org_id: UUID, document_id: UUID, user_id: UUID, values: dict[str, Any]
    ) -> Upload:
        """Begin the upload of a new version of a document. `values`: size_bytes and sha256."""
        self._check_size(values["size_bytes"])
        if (document := await store.lock_document(tx, document_id)) is None:
            raise NotFound("document_id")
        await check_workspace(tx, org_id, document.workspace_id)
        await _hold_workspace(tx, document.workspace_id)
        values = {**values, "name": document.name, "collection_ids": []}
        return await self._add_upload(tx, org_id, document.workspace_id, user_id, values, document_id)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._largest_bytes:
            raise InvalidArgument({"size_bytes": f"must be at most {self._largest_bytes:,} on this server"})

    async def _add_upload(
        self,
        tx: WriteSession,
        org_id: UUID,
        workspace_id: UUID,
        user_id: UUID,
        values: dict[str, Any],
        replaces_id: UUID | None,
    ) -> Upload:
        if not await store.reserve(tx, org_id, values["size_bytes"], 0 if replaces_id else 1, self._quota):
            raise await self._refusal(tx, 0 if replaces_id else 1)
        time = now()
        upload = Upload(
            org_id=org_id,
            id=new_id(),
            workspace_id=workspace_id,
            user_id=user_id,
            **values,
            replaces_id=replaces_id,
            create_time=time,
            expire_time=time + _LIFETIME,
        )
        tx.add(upload)
        return upload

    async def _refusal(self, tx: WriteSession, document_count: int) -> RateLimited:
        used = await store.used(tx)
        kind, limit, taken = "bytes", self._quota.size_bytes, used.size_bytes
        if used.document_count + document_count > self._quota.document_count:
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

    async def find_finished(self, org_id: UUID, upload_id: UUID) -> Upload | None:
        """Return an upload, if there is a document of it."""
        async with self._db.read(org_id) as tx:
            upload = await store.find_upload(tx, upload_id)
        return upload if upload and upload.document_id else None

    async def cancel_upload(self, org_id: UUID, upload_id: UUID) -> None:
        """Give up an upload that is not finished, and delete what is stored of it."""
        async with self._db.write(org_id) as tx:
            upload = await store.lock_upload(tx, upload_id)
            if upload is None or upload.end_time:
                raise NotFound("upload_id")
            if upload.document_id is None:
                await store.give_up(tx, upload)
        if upload.document_id is None:
            await self._files.of(org_id).delete(upload_id)

    async def receive(self, org_id: UUID, upload_id: UUID, messages: Messages, then: Then | None = None) -> Progress:
        """Take the bytes of a stream and, if it finishes, make the document. `then` is a part of its transaction."""
        return await self._streams.receive(org_id, upload_id, messages, then)

    async def end_expired(self, org_id: UUID, upload_id: UUID) -> None:
        """Give up an upload that has expired. What is left of a finished one is deleted."""
        async with self._db.write(org_id) as tx:
            upload = await store.lock_upload(tx, upload_id)
            if upload and upload.document_id:
                await tx.delete(upload)
            elif upload and not upload.end_time:
                await store.give_up(tx, upload)

    async def erase_upload(self, org_id: UUID, upload_id: UUID) -> None:
        """Delete an upload, with everything that is stored of it unless there is a document."""
        async with self._db.write(org_id) as tx:
            upload = await store.lock_upload(tx, upload_id)
            if upload is None:
                return
            if not (upload.document_id or upload.end_time):
                await store.release_upload(tx, upload)
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

    async def delete_document(self, org_id: UUID, document_id: UUID, before: datetime | None = None) -> bool:
        """Delete a document, and its bytes if no other one has them. Return False if there was none.

        With `before`, one that was changed since stays as well. Raises OnHold.
        """
        async with self._db.write(org_id) as tx:
            document = await store.lock_document(tx, document_id)
            if document is None or (before and document.update_time >= before):
                return False
            await check_workspace(tx, org_id, document.workspace_id)
            await self._ending.end_document(tx, document)
            append(tx, event.EVENT_TYPE_DOCUMENT_DELETED, workspace_id=document.workspace_id, document_id=document_id)
        return True

    async def erase_document(self, org_id: UUID, document_id: UUID) -> bool:
        """Delete a document of a workspace that was deleted before. Return False if there was none."""
        async with self._db.write(org_id) as tx:
            document = await store.lock_document(tx, document_id)
            if document is None:
                return False
            await self._ending.end_document(tx, document)
        return True

    async def retry_document(self, tx: WriteSession, document_id: UUID) -> FoundDocument:
        """Resume a failed document at the step that failed."""
        if await store.lock_document(tx, document_id) is None:
            raise NotFound("document_id")
        found = await store.find_document(tx, document_id)
        assert found
        version = found.version
        if version.state != State.FAILED:
            reason, state = pb.ERROR_REASON_DOCUMENT_NOT_FAILED, version.state.upper()
            raise FailedPrecondition(reason, f"The document is {state}, not FAILED.", metadata={"state": state})
        version.state, version.reason, version.due_time = State.PROCESSING, None, now()
        for step in found.steps:
            if step.step == version.step:
                step.attempt_count, step.reason = 0, None
        await tx.flush()
        await self._jobs.enqueue_once(tx, INGEST, org_id=version.org_id)
        return found

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


async def _hold_workspace(tx: WriteSession, workspace_id: UUID) -> None:
    if not await store.hold_workspace(tx, workspace_id):
        raise NotFound("workspace_id")


async def _check_collections(tx: WriteSession, workspace_id: UUID, ids: Sequence[UUID], field: str) -> None:
    if await store.hold_collections(tx, workspace_id, ids) != set(ids):
        raise NotFound(field)
