"""DocumentService: proto in and out."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from uuid import UUID

from aiworkspace.v1 import common_pb2
from aiworkspace.v1 import document_pb2 as pb
from aiworkspace.v1.document_pb2_grpc import DocumentServiceServicer

from ..kit.context import caller_id, tenant_id
from ..kit.errors import NotFound, OutOfRange
from ..kit.idempotency import IdempotencyStore
from ..kit.ids import parse_id
from ..kit.masks import changes
from ..kit.pages import Pages
from ..kit.postgres import Database
from ..kit.tasks import Tasks
from ..kit.timestamps import timestamp
from . import store
from .content import PIECE_BYTES, Files
from .models import Collection, Upload
from .service import DocumentService
from .store import FoundDocument


class DocumentServicer(DocumentServiceServicer):
    def __init__(
        self,
        documents: DocumentService,
        db: Database,
        files: Files,
        tasks: Tasks,
        pages: Pages,
        idempotency: IdempotencyStore,
    ) -> None:
        self._documents = documents
        self._db = db
        self._files = files
        self._tasks = tasks
        self._pages = pages
        self._idempotency = idempotency

    async def CreateUpload(self, request: pb.CreateUploadRequest, context: Any) -> pb.CreateUploadResponse:
        workspace_id = parse_id(request.workspace_id, "workspace_id")
        values = {
            "name": request.name,
            "size_bytes": request.size_bytes,
            "sha256": bytes.fromhex(request.sha256),
            "collection_ids": [UUID(each) for each in request.collection_ids],
        }
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.CreateUploadResponse):
                return reply
            upload = await self._documents.create_upload(tx, tenant_id(), workspace_id, caller_id(), values)
            reply = pb.CreateUploadResponse(upload=_upload_to_proto(upload, 0))
            return await self._idempotency.save(tx, request, reply)

    async def GetUpload(self, request: pb.GetUploadRequest, context: Any) -> pb.GetUploadResponse:
        found = await self._documents.find_upload(tenant_id(), parse_id(request.upload_id, "upload_id"))
        return pb.GetUploadResponse(upload=_upload_to_proto(found.upload, found.committed_bytes))

    async def UploadDocument(self, requests: Any, context: Any) -> pb.UploadDocumentResponse:
        """`requests` is a RequestStream."""
        upload_id = parse_id(requests.first.upload_id, "upload_id")
        progress = await self._documents.receive(tenant_id(), upload_id, aiter(requests))
        document = _document_to_proto(progress.found) if progress.found else None
        return pb.UploadDocumentResponse(committed_bytes=progress.committed_bytes, document=document)

    async def CancelUpload(self, request: pb.CancelUploadRequest, context: Any) -> pb.CancelUploadResponse:
        upload_id = parse_id(request.upload_id, "upload_id")
        await self._tasks.complete(self._documents.cancel_upload(tenant_id(), upload_id))
        return pb.CancelUploadResponse()

    async def GetDocument(self, request: pb.GetDocumentRequest, context: Any) -> pb.GetDocumentResponse:
        return pb.GetDocumentResponse(document=_document_to_proto(await self._find(request.document_id)))

    async def ListDocuments(self, request: pb.ListDocumentsRequest, context: Any) -> pb.ListDocumentsResponse:
        workspace_id = parse_id(request.workspace_id, "workspace_id")
        collection_id = parse_id(request.collection_id, "collection_id") if request.collection_id else None
        async with self._db.read(tenant_id()) as tx:
            if collection_id:
                collection = await store.find_collection(tx, collection_id)
                if collection is None or collection.workspace_id != workspace_id:
                    raise NotFound("collection_id")
            before, limit = self._pages.after_id(request), self._pages.limit(request)
            rows = await store.list_documents(tx, workspace_id, collection_id, before, limit)
        rows, more = self._pages.cut(request, rows, lambda found: [found.document.id])
        return pb.ListDocumentsResponse(documents=map(_document_to_proto, rows), next_page_token=more)

    async def UpdateDocument(self, request: pb.UpdateDocumentRequest, context: Any) -> pb.UpdateDocumentResponse:
        given = request.document
        values = changes(given, request.update_mask, {"name", "collection_ids"})
        document_id = parse_id(given.document_id, "document.document_id")
        found = await self._documents.update_document(tenant_id(), document_id, given.etag, values)
        return pb.UpdateDocumentResponse(document=_document_to_proto(found))

    async def DownloadDocument(
        self, request: pb.DownloadDocumentRequest, context: Any
    ) -> AsyncIterator[pb.DownloadDocumentResponse]:
        blob, offset = (await self._find(request.document_id)).blob, request.offset
        if offset > blob.size_bytes:
            message = f"offset: the document has {blob.size_bytes:,} bytes."
            metadata = {"size_bytes": str(blob.size_bytes)}
            raise OutOfRange(common_pb2.ERROR_REASON_OFFSET_TOO_LARGE, message, metadata=metadata)
        end = min(blob.size_bytes, offset + request.length) if request.length else blob.size_bytes
        async with aclosing(self._files.of(tenant_id()).read(blob.id, offset, end)) as parts:
            async for part in parts:
                for begin in range(0, len(part), PIECE_BYTES):
                    data = part[begin : begin + PIECE_BYTES]
                    yield pb.DownloadDocumentResponse(offset=offset, data=data)
                    offset += len(data)
        if offset < end:  # the document was deleted meanwhile
            raise NotFound("document_id")

    async def DeleteDocument(self, request: pb.DeleteDocumentRequest, context: Any) -> pb.DeleteDocumentResponse:
        document_id = parse_id(request.document_id, "document_id")
        if not await self._documents.delete_document(tenant_id(), document_id):
            raise NotFound("document_id")
        return pb.DeleteDocumentResponse()

    async def CreateCollection(self, request: pb.CreateCollectionRequest, context: Any) -> pb.CreateCollectionResponse:
        workspace_id = parse_id(request.workspace_id, "workspace_id")
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.CreateCollectionResponse):
                return reply
            collection = await self._documents.create_collection(
                tx, tenant_id(), workspace_id, request.name, request.description
            )
            reply = pb.CreateCollectionResponse(collection=_collection_to_proto(collection))
            return await self._idempotency.save(tx, request, reply)

    async def GetCollection(self, request: pb.GetCollectionRequest, context: Any) -> pb.GetCollectionResponse:
        async with self._db.read(tenant_id()) as tx:
            collection = await store.find_collection(tx, parse_id(request.collection_id, "collection_id"))
        if collection is None:
            raise NotFound("collection_id")
        return pb.GetCollectionResponse(collection=_collection_to_proto(collection))

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Any) -> pb.ListCollectionsResponse:
        workspace_id = parse_id(request.workspace_id, "workspace_id")
        async with self._db.read(tenant_id()) as tx:
            after, limit = self._pages.after_id(request), self._pages.limit(request)
            rows = await store.list_collections(tx, workspace_id, after, limit)
        rows, more = self._pages.cut(request, rows, lambda collection: [collection.id])
        return pb.ListCollectionsResponse(collections=map(_collection_to_proto, rows), next_page_token=more)

    async def UpdateCollection(self, request: pb.UpdateCollectionRequest, context: Any) -> pb.UpdateCollectionResponse:
        given = request.collection
        values = changes(given, request.update_mask, {"name", "description"})
        collection_id = parse_id(given.collection_id, "collection.collection_id")
        async with self._db.write(tenant_id()) as tx:
            collection = await self._documents.update_collection(tx, collection_id, given.etag, values)
        return pb.UpdateCollectionResponse(collection=_collection_to_proto(collection))

    async def DeleteCollection(self, request: pb.DeleteCollectionRequest, context: Any) -> pb.DeleteCollectionResponse:
        async with self._db.write(tenant_id()) as tx:
            collection = await store.lock_collection(tx, parse_id(request.collection_id, "collection_id"))
            if collection is None:
                raise NotFound("collection_id")
            await tx.delete(collection)
        return pb.DeleteCollectionResponse()

    async def _find(self, document_id: str) -> FoundDocument:
        async with self._db.read(tenant_id()) as tx:
            found = await store.find_document(tx, parse_id(document_id, "document_id"))
        if found is None:
            raise NotFound("document_id")
        return found


def _upload_to_proto(upload: Upload, committed_bytes: int) -> pb.Upload:
    return pb.Upload(
        upload_id=str(upload.id),
        workspace_id=str(upload.workspace_id),
        name=upload.name,
        size_bytes=upload.size_bytes,
        committed_bytes=committed_bytes,
        document_id=str(upload.document_id or ""),
        create_time=timestamp(upload.create_time),
        expire_time=timestamp(upload.expire_time),
    )


def _document_to_proto(found: FoundDocument) -> pb.Document:
    document = found.document
    return pb.Document(
        document_id=str(document.id),
        workspace_id=str(document.workspace_id),
        name=document.name,
        size_bytes=found.blob.size_bytes,
        sha256=found.blob.sha256.hex(),
        collection_ids=map(str, found.collection_ids),
        user_id=str(document.user_id),
        create_time=timestamp(document.create_time),
        update_time=timestamp(document.update_time),
        etag=str(document.version),
    )


def _collection_to_proto(collection: Collection) -> pb.Collection:
    return pb.Collection(
        collection_id=str(collection.id),
        workspace_id=str(collection.workspace_id),
        name=collection.name,
        description=collection.description,
        create_time=timestamp(collection.create_time),
        update_time=timestamp(collection.update_time),
        etag=str(collection.version),
    )
