"""Documents that tests upload."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.documents.content import Files
from aiworkspace_server.documents.ending import ERASE_BYTES, ERASE_VERSION, Ending
from aiworkspace_server.documents.ingestion import INGEST
from aiworkspace_server.documents.jobs import UploadJobs
from aiworkspace_server.documents.metering import Metering
from aiworkspace_server.documents.objects import ObjectStores
from aiworkspace_server.documents.reindexing import REINDEX, Reindexing
from aiworkspace_server.documents.service import DocumentService
from aiworkspace_server.documents.store import Quota
from aiworkspace_server.documents.streams import Streams
from aiworkspace_server.kit.jobs import Jobs
from aiworkspace_server.kit.mongo import Mongo
from aiworkspace_server.kit.postgres import Database
from aiworkspace_server.kit.timestamps import now
from aiworkspace_server.usage.ledger import Ledger

from .people import Person
from .postgres import sql
from .stores import Stores

MESSAGE_BYTES = 256 << 10


def files_in(mongo: Mongo, store: str | None = None) -> Files:
    """The files of a server without an object store, or with one."""
    return Files(mongo, ObjectStores(store))


def document_service(
    db: Database, mongo: Mongo, stores: Stores, quota: Quota, largest_bytes: int, *, store: str | None = None
) -> DocumentService:
    """The service of another server on the same databases, whose jobs are done by whoever works on the queue."""
    files, jobs, ending = _parts(db, mongo, stores, store)
    return DocumentService(db, files, jobs, ending, quota, largest_bytes)


def document_reindexing(db: Database, mongo: Mongo, stores: Stores, page: int) -> Reindexing:
    """What has documents read again, in another server. No server does the jobs that it enqueues for further pages."""
    _, jobs, ending = _parts(db, mongo, stores, None)
    jobs.add(REINDEX, _not_here, "nobody")
    return Reindexing(db, jobs, ending, page)


def upload_streams(db: Database, mongo: Mongo, stores: Stores, check_seconds: float) -> Streams:
    """What takes streams of uploads in another server."""
    return Streams(db, *_parts(db, mongo, stores, None), check_seconds)


def _parts(db: Database, mongo: Mongo, stores: Stores, store: str | None) -> tuple[Files, Jobs, Ending]:
    jobs, files = Jobs(stores.postgres), files_in(mongo, store)
    for name in (INGEST, ERASE_BYTES, ERASE_VERSION):
        jobs.add(name, _not_here)
    return files, jobs, Ending(db, mongo, files, jobs, Metering(db, Ledger(None)))


async def _not_here(**arguments: str) -> None:
    raise AssertionError("this server works on no jobs")


async def begin(
    person: Person,
    workspace_id: str,
    data: bytes,
    *,
    name: str = "notes.txt",
    collection_ids: Sequence[str] = (),
    request_id: str = "",
) -> str:
    """Begin an upload of these bytes. Return its id."""
    request = pb.CreateUploadRequest(
        workspace_id=workspace_id,
        name=name,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        collection_ids=collection_ids,
        request_id=request_id,
    )
    return str((await person.documents.CreateUpload(request)).upload.upload_id)


async def messages(
    upload_id: str, data: bytes, *, offset: int = 0, size: int = MESSAGE_BYTES, finish: bool = True
) -> AsyncIterator[pb.UploadDocumentRequest]:
    """Yield the messages of a stream that sends the bytes from an offset on."""
    begins = range(offset, len(data), size) or [offset]
    for begin in begins:
        last = begin + size >= len(data)
        part = data[begin : begin + size]
        yield pb.UploadDocumentRequest(upload_id=upload_id, offset=begin, data=part, finish=finish and last)


async def upload(person: Person, workspace_id: str, data: bytes, **fields: object) -> pb.Document:
    """Upload a document as a whole."""
    upload_id = await begin(person, workspace_id, data, **fields)  # type: ignore[arg-type]
    response: pb.UploadDocumentResponse = await person.documents.UploadDocument(messages(upload_id, data))
    return response.document


async def replace(person: Person, document_id: str, data: bytes) -> pb.Document:
    """Upload a new version of a document as a whole."""
    sha256 = hashlib.sha256(data).hexdigest()
    request = pb.ReplaceDocumentRequest(document_id=document_id, size_bytes=len(data), sha256=sha256)
    upload_id = (await person.documents.ReplaceDocument(request)).upload.upload_id
    response: pb.UploadDocumentResponse = await person.documents.UploadDocument(messages(upload_id, data))
    return response.document


async def forget_upload(app: App, stores: Stores, upload_id: str, column: str) -> None:
    """Let an upload be one that ended or expired long ago, and do the server's job that deletes it."""
    time = now() - timedelta(days=1)
    await sql(stores, f"UPDATE uploads SET {column} = %s WHERE id = %s", time, UUID(upload_id))
    await UploadJobs(app.db, document_service(app.db, app.mongo, stores, Quota(1, 1), 1)).end_uploads()
    assert await sql(stores, "SELECT FROM uploads WHERE id = %s", UUID(upload_id)) == []


async def watch(person: Person, document_id: str) -> list[pb.Document]:
    """All that WatchDocument sends of a document, until it is READY or FAILED."""
    request = pb.WatchDocumentRequest(document_id=document_id)
    return [response.document async for response in person.documents.WatchDocument(request)]


async def read(person: Person, workspace_id: str, data: bytes, **fields: object) -> pb.Document:
    """Upload a document, and return it once it is READY or FAILED."""
    document = await upload(person, workspace_id, data, **fields)
    return (await watch(person, document.document_id))[-1]


async def fail(stores: Stores, document_id: str) -> None:
    """Let the latest version of a document be one that could not be read."""
    query = "UPDATE document_versions SET state = 'failed', reason = 'internal' WHERE document_id = %s"
    await sql(stores, query, document_id)


async def search(person: Person, workspace_id: str, query: str, **fields: Any) -> list[pb.Passage]:
    request = pb.SearchDocumentsRequest(workspace_id=workspace_id, query=query, **fields)
    return list((await person.documents.SearchDocuments(request)).passages)


def get(person: Person, document_id: str) -> Any:
    return person.documents.GetDocument(pb.GetDocumentRequest(document_id=document_id))


async def find(person: Person, document: pb.Document, query: str) -> pb.Passage:
    """The passage of a document with these words that a search for them finds; its offsets lead to its text."""
    found = await search(person, document.workspace_id, query)
    of_it = [each for each in found if each.document_id == document.document_id and query in each.text]
    assert of_it, f"{query!r} was not found in {document.name}"
    start, end = of_it[0].start, of_it[0].end
    assert await read_text(person, document.document_id, offset=start, length=end - start) == of_it[0].text
    return of_it[0]


async def read_text(person: Person, document_id: str, *, version: int = 0, offset: int = 0, length: int = 0) -> str:
    """A part of a document's text, or all of it in as many calls as that takes."""
    request = pb.GetDocumentTextRequest(document_id=document_id, version=version, offset=offset, length=length)
    response = await person.documents.GetDocumentText(request)
    text = str(response.text)
    while not length and offset + len(text) < response.text_length:
        request.offset = offset + len(text)
        text += (await person.documents.GetDocumentText(request)).text
    return text


async def download(
    person: Person, document_id: str, *, offset: int = 0, length: int = 0, version_id: str = ""
) -> bytes:
    request = pb.DownloadDocumentRequest(document_id=document_id, offset=offset, length=length, version_id=version_id)
    return b"".join([response.data async for response in person.documents.DownloadDocument(request)])
