"""DocumentService: proto in and out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from aiworkspace.v1 import common_pb2
from aiworkspace.v1 import document_pb2 as pb
from aiworkspace.v1.document_pb2_grpc import DocumentServiceServicer

from ..auth.authority import current_principal
from ..kit.context import caller_id, tenant_id
from ..kit.errors import FailedPrecondition, NotFound, OutOfRange
from ..kit.idempotency import IdempotencyStore
from ..kit.ids import parse_id
from ..kit.masks import changes
from ..kit.mongo import Mongo
from ..kit.pages import Pages
from ..kit.postgres import Database, WriteSession
from ..kit.tasks import Tasks
from ..kit.timestamps import parse_timestamp
from ..orgs.holds import check_workspace
from ..parsing.media_types import declared_type
from ..search.models import Filters
from ..search.query import Search
from ..search.questions import Asker
from . import store, versions
from .content import PIECE_BYTES, Files
from .models import Blob, DocumentVersion, Upload
from .proto import (
    add_blocks,
    collection_to_proto,
    document_to_proto,
    omissions_to_proto,
    passage_to_proto,
    upload_to_proto,
)
from .reindexing import Reindexing
from .service import DocumentService
from .store import FoundDocument
from .texts import Texts
from .web_pages import WebPage, WebPages

_WATCH_SECONDS = 0.3
_MOST_TEXT = 65_536  # code points in one response
_LIMIT = 10  # of results, by default


class DocumentServicer(DocumentServiceServicer):
    def __init__(
        self,
        documents: DocumentService,
        reindexing: Reindexing,
        search: Search,
        db: Database,
        mongo: Mongo,
        files: Files,
        web_pages: WebPages,
        tasks: Tasks,
        pages: Pages,
        idempotency: IdempotencyStore,
    ) -> None:
        self._documents = documents
        self._reindexing = reindexing
        self._search = search
        self._db = db
        self._mongo = mongo
        self._files = files
        self._web_pages = web_pages
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
            reply = pb.CreateUploadResponse(upload=upload_to_proto(upload, 0))
            return await self._idempotency.save(tx, request, reply)

    async def GetUpload(self, request: pb.GetUploadRequest, context: Any) -> pb.GetUploadResponse:
        found = await self._documents.find_upload(tenant_id(), parse_id(request.upload_id, "upload_id"))
        return pb.GetUploadResponse(upload=upload_to_proto(found.upload, found.committed_bytes))

    async def UploadDocument(self, requests: Any, context: Any) -> pb.UploadDocumentResponse:
        """`requests` is a RequestStream."""
        upload_id = parse_id(requests.first.upload_id, "upload_id")
        progress = await self._documents.receive(tenant_id(), upload_id, aiter(requests))
        document = document_to_proto(progress.found) if progress.found else None
        return pb.UploadDocumentResponse(committed_bytes=progress.committed_bytes, document=document)

    async def CancelUpload(self, request: pb.CancelUploadRequest, context: Any) -> pb.CancelUploadResponse:
        upload_id = parse_id(request.upload_id, "upload_id")
        await self._tasks.complete(self._documents.cancel_upload(tenant_id(), upload_id))
        return pb.CancelUploadResponse()

    async def GetDocument(self, request: pb.GetDocumentRequest, context: Any) -> pb.GetDocumentResponse:
        return pb.GetDocumentResponse(document=document_to_proto(await self._find(request.document_id)))

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
        return pb.ListDocumentsResponse(documents=map(document_to_proto, rows), next_page_token=more)

    async def UpdateDocument(self, request: pb.UpdateDocumentRequest, context: Any) -> pb.UpdateDocumentResponse:
        given = request.document
        values = changes(given, request.update_mask, {"name", "collection_ids"})
        document_id = parse_id(given.document_id, "document.document_id")
        found = await self._documents.update_document(tenant_id(), document_id, given.etag, values)
        return pb.UpdateDocumentResponse(document=document_to_proto(found))

    async def DownloadDocument(
        self, request: pb.DownloadDocumentRequest, context: Any
    ) -> AsyncIterator[pb.DownloadDocumentResponse]:
        version_id, blob = await self._find_bytes(request.document_id, request.version_id)
        offset = request.offset
        if offset > blob.size_bytes:
            message = f"offset: the document has {blob.size_bytes:,} bytes."
            metadata = {"size_bytes": str(blob.size_bytes)}
            raise OutOfRange(common_pb2.ERROR_REASON_OFFSET_TOO_LARGE, message, metadata=metadata)
        end = min(blob.size_bytes, offset + request.length) if request.length else blob.size_bytes
        response = pb.DownloadDocumentResponse(
            version_id=str(version_id), size_bytes=blob.size_bytes, sha256=blob.sha256.hex(), offset=offset
        )
        if offset == end:
            yield response
        async with aclosing(self._files.of(tenant_id()).read(blob.id, offset, end)) as parts:
            async for part in parts:
                for begin in range(0, len(part), PIECE_BYTES):
                    response.data = part[begin : begin + PIECE_BYTES]
                    yield response
                    offset += len(response.data)
                    response = pb.DownloadDocumentResponse(offset=offset)
        if offset < end:  # the version was deleted meanwhile
            raise NotFound("version_id")

    async def _find_bytes(self, document_id: str, version_id: str) -> tuple[UUID, Blob]:
        named = parse_id(version_id, "version_id") if version_id else None
        async with self._db.read(tenant_id()) as tx:
            found = await versions.find_bytes(tx, parse_id(document_id, "document_id"), named)
        if found is None:
            raise NotFound("version_id" if named else "document_id")
        return found

    async def DeleteDocument(self, request: pb.DeleteDocumentRequest, context: Any) -> pb.DeleteDocumentResponse:
        document_id = parse_id(request.document_id, "document_id")
        if not await self._documents.delete_document(tenant_id(), document_id):
            raise NotFound("document_id")
        return pb.DeleteDocumentResponse()

    async def ReplaceDocument(self, request: pb.ReplaceDocumentRequest, context: Any) -> pb.ReplaceDocumentResponse:
        document_id = parse_id(request.document_id, "document_id")
        values = {"size_bytes": request.size_bytes, "sha256": bytes.fromhex(request.sha256)}
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.ReplaceDocumentResponse):
                return reply
            upload = await self._documents.replace_document(tx, tenant_id(), document_id, caller_id(), values)
            reply = pb.ReplaceDocumentResponse(upload=upload_to_proto(upload, 0))
            return await self._idempotency.save(tx, request, reply)

    async def ImportWebPage(self, request: pb.ImportWebPageRequest, context: Any) -> pb.ImportWebPageResponse:
        workspace_id = parse_id(request.workspace_id, "workspace_id")
        collection_ids = [UUID(each) for each in request.collection_ids]
        async with self._db.read(tenant_id(), caller_id()) as tx:
            reply = await self._idempotency.peek(tx, request, pb.ImportWebPageResponse)
            if reply is None and not await store.are_collections(tx, workspace_id, collection_ids):
                raise NotFound("collection_ids")
        if reply and (upload := await self._documents.find_finished(tenant_id(), UUID(reply.upload.upload_id))):
            return pb.ImportWebPageResponse(upload=upload_to_proto(upload, upload.size_bytes))
        if reply and reply.upload.document_id:  # the upload was deleted since, a day later or with the document
            return reply
        page = await self._web_pages.fetch(request.url)
        upload_id = await self._begin_import(request, workspace_id, page)

        async def save(tx: WriteSession, upload: Upload) -> None:
            if upload.document_id and (declared := declared_type(page.media_type)):
                await versions.declare(tx, upload.document_id, declared)
            await self._save_import(tx, request, upload, upload.size_bytes)

        receiving = self._documents.receive(tenant_id(), upload_id, page.messages(), save)
        progress = await self._tasks.complete(receiving)
        return pb.ImportWebPageResponse(upload=upload_to_proto(progress.upload, progress.committed_bytes))

    async def _begin_import(self, request: pb.ImportWebPageRequest, workspace_id: UUID, page: WebPage) -> UUID:
        """Return the upload of a page: that of an earlier call, or a new one if there was none or it has ended."""
        values = await page.declared() | {"collection_ids": [UUID(each) for each in request.collection_ids]}
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.ImportWebPageResponse):
                earlier_id = UUID(reply.upload.upload_id)
                if reply.upload.document_id or await store.find_upload(tx, earlier_id):
                    return earlier_id
            upload = await self._documents.create_upload(tx, tenant_id(), workspace_id, caller_id(), values)
            await self._save_import(tx, request, upload, 0)
        return upload.id

    async def _save_import(
        self, tx: WriteSession, request: pb.ImportWebPageRequest, upload: Upload, committed_bytes: int
    ) -> pb.ImportWebPageResponse:
        """Store the reply: first with the upload, by which a repeated call goes on, and then with the document."""
        reply = pb.ImportWebPageResponse(upload=upload_to_proto(upload, committed_bytes))
        return await self._idempotency.save(tx, request, reply)

    async def RetryDocument(self, request: pb.RetryDocumentRequest, context: Any) -> pb.RetryDocumentResponse:
        async with self._db.write(tenant_id()) as tx:
            found = await self._documents.retry_document(tx, parse_id(request.document_id, "document_id"))
        return pb.RetryDocumentResponse(document=document_to_proto(found))

    async def WatchDocument(
        self, request: pb.WatchDocumentRequest, context: Any
    ) -> AsyncIterator[pb.WatchDocumentResponse]:
        sent = None
        while sent is None or sent.state == pb.DOCUMENT_STATE_PROCESSING:
            document = document_to_proto(await self._find(request.document_id))
            if document != sent:
                yield pb.WatchDocumentResponse(document=document)
                sent = document
            else:
                await asyncio.sleep(_WATCH_SECONDS)

    async def ReindexDocuments(self, request: pb.ReindexDocumentsRequest, context: Any) -> pb.ReindexDocumentsResponse:
        workspace_id = parse_id(request.workspace_id, "workspace_id")
        ids = [UUID(each) for each in request.document_ids]
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.ReindexDocumentsResponse):
                return reply
            count = await self._reindexing.begin(tx, tenant_id(), workspace_id, ids)
            return await self._idempotency.save(tx, request, pb.ReindexDocumentsResponse(document_count=count))

    async def GetDocumentText(self, request: pb.GetDocumentTextRequest, context: Any) -> pb.GetDocumentTextResponse:
        version = await self._find_version(parse_id(request.document_id, "document_id"), request.version)
        if version.text_id is None:
            raise FailedPrecondition(common_pb2.ERROR_REASON_DOCUMENT_NOT_READ, "The version has no text yet.")
        start, length = request.offset, version.text_length
        if start > length:
            metadata = {"text_length": str(length)}
            message = f"offset: the text has {length:,} code points."
            raise OutOfRange(common_pb2.ERROR_REASON_OFFSET_TOO_LARGE, message, metadata=metadata)
        end = min(length, start + (request.length or _MOST_TEXT))
        response = pb.GetDocumentTextResponse(version=version.number, offset=start, text_length=length)
        text = ""
        async with aclosing(Texts(self._mongo, tenant_id()).read(version.id, version.text_id, start, end)) as pieces:
            async for piece in pieces:
                text += piece.text[max(0, start - piece.start) : end - piece.start]
                await add_blocks(response, [each for each in piece.blocks if each.start < end and each.end > start])
        if len(text) < end - start:  # the version ended meanwhile
            raise NotFound("version")
        response.text = text
        return response

    async def _find_version(self, document_id: UUID, number: int) -> DocumentVersion:
        async with self._db.read(tenant_id()) as tx:
            found = await store.find_document(tx, document_id)
            if found is None:
                raise NotFound("document_id")
            version = await versions.find(tx, document_id, number or found.ready_number or found.version.number)
        if version is None:
            raise NotFound("version")
        return version

    async def SearchDocuments(self, request: pb.SearchDocumentsRequest, context: Any) -> pb.SearchDocumentsResponse:
        workspace_id = parse_id(request.workspace_id, "workspace_id")
        filters, limit = _filters(request.filter), request.limit or _LIMIT
        key = current_principal().key
        asker = Asker(tenant_id(), workspace_id, caller_id(), key.api_key_id if key else None)
        result = await self._search.search(asker, request.query, filters, limit)
        async with self._db.read(tenant_id()) as tx:
            found = await versions.find_several(tx, {hit.version_id for hit in result.hits})
        passages = [passage_to_proto(hit, *found[hit.version_id]) for hit in result.hits if hit.version_id in found]
        return pb.SearchDocumentsResponse(passages=passages, omissions=omissions_to_proto(result.left_out))

    async def GetSimilar(self, request: pb.GetSimilarRequest, context: Any) -> pb.GetSimilarResponse:
        document_id = parse_id(request.document_id, "document_id")
        found = await self._find(request.document_id)
        if found.ready_number is None:
            message = "No version of the document is READY yet: follow it with WatchDocument."
            raise FailedPrecondition(common_pb2.ERROR_REASON_DOCUMENT_NOT_READ, message)
        workspace_id = found.document.workspace_id
        limit = request.limit or _LIMIT
        result = await self._search.similar(tenant_id(), workspace_id, document_id, Filters(), limit)
        async with self._db.read(tenant_id()) as tx:
            names = await versions.find_several(tx, {each.version_id for each in result.documents})
        similar = [
            pb.SimilarDocument(
                document_id=str(each.document_id), document_name=names[each.version_id][1], score=each.score
            )
            for each in result.documents
            if each.version_id in names
        ]
        return pb.GetSimilarResponse(documents=similar, omissions=omissions_to_proto(result.left_out))

    async def CreateCollection(self, request: pb.CreateCollectionRequest, context: Any) -> pb.CreateCollectionResponse:
        workspace_id = parse_id(request.workspace_id, "workspace_id")
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.CreateCollectionResponse):
                return reply
            collection = await self._documents.create_collection(
                tx, tenant_id(), workspace_id, request.name, request.description
            )
            reply = pb.CreateCollectionResponse(collection=collection_to_proto(collection))
            return await self._idempotency.save(tx, request, reply)

    async def GetCollection(self, request: pb.GetCollectionRequest, context: Any) -> pb.GetCollectionResponse:
        async with self._db.read(tenant_id()) as tx:
            collection = await store.find_collection(tx, parse_id(request.collection_id, "collection_id"))
        if collection is None:
            raise NotFound("collection_id")
        return pb.GetCollectionResponse(collection=collection_to_proto(collection))

    async def ListCollections(self, request: pb.ListCollectionsRequest, context: Any) -> pb.ListCollectionsResponse:
        workspace_id = parse_id(request.workspace_id, "workspace_id")
        async with self._db.read(tenant_id()) as tx:
            after, limit = self._pages.after_id(request), self._pages.limit(request)
            rows = await store.list_collections(tx, workspace_id, after, limit)
        rows, more = self._pages.cut(request, rows, lambda collection: [collection.id])
        return pb.ListCollectionsResponse(collections=map(collection_to_proto, rows), next_page_token=more)

    async def UpdateCollection(self, request: pb.UpdateCollectionRequest, context: Any) -> pb.UpdateCollectionResponse:
        given = request.collection
        values = changes(given, request.update_mask, {"name", "description"})
        collection_id = parse_id(given.collection_id, "collection.collection_id")
        async with self._db.write(tenant_id()) as tx:
            collection = await self._documents.update_collection(tx, collection_id, given.etag, values)
        return pb.UpdateCollectionResponse(collection=collection_to_proto(collection))

    async def DeleteCollection(self, request: pb.DeleteCollectionRequest, context: Any) -> pb.DeleteCollectionResponse:
        async with self._db.write(tenant_id()) as tx:
            collection = await store.lock_collection(tx, parse_id(request.collection_id, "collection_id"))
            if collection is None:
                raise NotFound("collection_id")
            await check_workspace(tx, tenant_id(), collection.workspace_id)
            await tx.delete(collection)
        return pb.DeleteCollectionResponse()

    async def _find(self, document_id: str) -> FoundDocument:
        async with self._db.read(tenant_id()) as tx:
            found = await store.find_document(tx, parse_id(document_id, "document_id"))
        if found is None:
            raise NotFound("document_id")
        return found


def _filters(given: pb.SearchFilter) -> Filters:
    return Filters(
        collection_ids=[UUID(each) for each in given.collection_ids] or None,
        document_ids=[UUID(each) for each in given.document_ids] or None,
        media_types=list(given.media_types) or None,
        start_time=_time(given, "start_time"),
        end_time=_time(given, "end_time"),
    )


def _time(given: pb.SearchFilter, field: Literal["start_time", "end_time"]) -> datetime | None:
    return parse_timestamp(getattr(given, field), f"filter.{field}") if given.HasField(field) else None
