"""Documents that tests upload."""

import hashlib
from collections.abc import AsyncIterator, Sequence

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.documents.content import Files
from aiworkspace_server.documents.objects import ObjectStores
from aiworkspace_server.kit.mongo import Mongo

from .people import Person

MESSAGE_BYTES = 256 << 10


def files_in(mongo: Mongo, store: str | None = None) -> Files:
    """The files of a server without an object store, or with one."""
    return Files(mongo, ObjectStores(store))


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


async def download(person: Person, document_id: str, *, offset: int = 0, length: int = 0) -> bytes:
    request = pb.DownloadDocumentRequest(document_id=document_id, offset=offset, length=length)
    return b"".join([response.data async for response in person.documents.DownloadDocument(request)])
