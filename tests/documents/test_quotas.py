"""Room for documents: reserved by an upload, given back by what ends it, never exceeded."""

import asyncio
import hashlib
from collections import Counter
from datetime import timedelta
from uuid import UUID

import pytest

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.documents.jobs import UploadJobs
from aiworkspace_server.documents.service import DocumentService
from aiworkspace_server.documents.store import Quota
from aiworkspace_server.kit.errors import RateLimited
from aiworkspace_server.kit.timestamps import now
from tests.support.documents import begin, document_service, messages, upload
from tests.support.outcomes import NOT_FOUND, outcome
from tests.support.people import Place
from tests.support.postgres import sql
from tests.support.stores import Stores

PIECE = 256 << 10


async def used(stores: Stores, place: Place) -> tuple[int, int]:
    """Bytes and number of the documents that are there or on their way."""
    rows = await sql(
        stores, "SELECT size_bytes, document_count FROM document_usage WHERE org_id = %s", UUID(place.org_id)
    )
    return rows[0] if rows else (0, 0)


def service_with(app: App, stores: Stores, size_bytes: int, document_count: int) -> DocumentService:
    return document_service(app.db, app.mongo, stores, Quota(size_bytes, document_count), 1000)


async def reserve(app: App, service: DocumentService, place: Place, size: int) -> str:
    """Begin an upload. Return "ok", or which quota refused it."""
    values = {"name": "x", "size_bytes": size, "sha256": hashlib.sha256(b"").digest(), "collection_ids": []}
    org_id, user_id = UUID(place.org_id), UUID(place.owner.user_id)
    try:
        async with app.db.write(org_id, user_id) as tx:
            await service.create_upload(tx, org_id, UUID(place.workspace_id), user_id, values)
    except RateLimited as refused:
        return f"{refused.metadata['quota']} {refused.metadata['used']} of {refused.metadata['limit']}"
    return "ok"


async def test_room_is_reserved_kept_and_given_back(stores: Stores, place: Place) -> None:
    cancelled = await begin(place.owner, place.workspace_id, b"12345")
    assert await used(stores, place) == (5, 1)
    await place.owner.documents.CancelUpload(pb.CancelUploadRequest(upload_id=cancelled))
    assert await used(stores, place) == (0, 0)
    first = await upload(place.owner, place.workspace_id, b"123")
    await upload(place.owner, place.workspace_id, b"123")
    assert await used(stores, place) == (6, 2), "equal bytes count for each document"
    wrong = await begin(place.owner, place.workspace_id, b"1234567")
    await outcome(place.owner.documents.UploadDocument(messages(wrong, b"7654321")))
    assert await used(stores, place) == (6, 2)
    await place.owner.documents.DeleteDocument(pb.DeleteDocumentRequest(document_id=first.document_id))
    assert await used(stores, place) == (3, 1)


async def test_a_refusal_says_what_is_used(app: App, stores: Stores, place: Place) -> None:
    service = service_with(app, stores, 100, 3)
    assert await reserve(app, service, place, 101) == "bytes 0 of 100"
    assert [await reserve(app, service, place, size) for size in (60, 40, 1)] == ["ok", "ok", "bytes 100 of 100"]
    service = service_with(app, stores, 1000, 3)
    assert [await reserve(app, service, place, 1) for _ in range(2)] == ["ok", "count 3 of 3"]


async def test_fifty_uploads_at_once_do_not_exceed_the_quota(app: App, stores: Stores, place: Place) -> None:
    service = service_with(app, stores, 100, 1000)
    found = Counter(await asyncio.gather(*(reserve(app, service, place, 9) for _ in range(50))))
    assert found["ok"] == 11
    assert await used(stores, place) == (99, 11)


async def expire(stores: Stores, upload_id: str, column: str) -> None:
    await sql(stores, f"UPDATE uploads SET {column} = %s WHERE id = %s", now() - timedelta(minutes=2), UUID(upload_id))


@pytest.fixture
async def jobs(app: App, stores: Stores) -> UploadJobs:
    return UploadJobs(app.db, service_with(app, stores, 1, 1))


async def test_an_unfinished_upload_expires_with_its_bytes(
    app: App, stores: Stores, place: Place, jobs: UploadJobs
) -> None:
    data = bytes(2 * PIECE)
    upload_id = await begin(place.owner, place.workspace_id, data)
    await place.owner.documents.UploadDocument(messages(upload_id, data[:PIECE], finish=False))
    await expire(stores, upload_id, "expire_time")
    await jobs.end_uploads()
    assert await outcome(place.owner.documents.GetUpload(pb.GetUploadRequest(upload_id=upload_id))) == NOT_FOUND
    assert await used(stores, place) == (0, 0)
    await expire(stores, upload_id, "end_time")
    await jobs.end_uploads()
    assert await sql(stores, "SELECT 1 FROM uploads WHERE id = %s", UUID(upload_id)) == []
    assert await app.mongo.database["documents.chunks"].count_documents({"files_id": UUID(upload_id)}) == 0


async def test_of_a_finished_upload_the_document_stays(stores: Stores, place: Place, jobs: UploadJobs) -> None:
    data = b"to stay"
    upload_id = await begin(place.owner, place.workspace_id, data)
    document = (await place.owner.documents.UploadDocument(messages(upload_id, data))).document
    await expire(stores, upload_id, "expire_time")
    await jobs.end_uploads()
    assert await outcome(place.owner.documents.GetUpload(pb.GetUploadRequest(upload_id=upload_id))) == NOT_FOUND
    found = await place.owner.documents.GetDocument(pb.GetDocumentRequest(document_id=document.document_id))
    assert found.document.sha256 == document.sha256
    assert await used(stores, place) == (len(data), 1)
