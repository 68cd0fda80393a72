"""Following, searching and replacing documents with the SDK."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence

import grpc
import pytest
from google.protobuf.message import Message

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_client import AsyncClient, Client, errors
from tests.client.scripted import Context, ScriptedServer, answer, failure

PIECE = 256 << 10
DOCUMENT_ID, WORKSPACE_ID = "document-1", "workspace-1"
FOUND = pb.SearchDocumentsResponse(
    passages=[pb.Passage(document_id=DOCUMENT_ID, start=3, end=6, text="abc")],
    omissions=[pb.SEARCH_OMISSION_NO_EMBEDDER],
)
TEXT = pb.GetDocumentTextResponse(version=2, offset=3, text="abc", text_length=9)


def at(fraction: float) -> pb.Document:
    """The document with so much of it parsed."""
    step = pb.StepProgress(step=pb.INGESTION_STEP_PARSED, fraction=fraction)
    return pb.Document(document_id=DOCUMENT_ID, state=pb.DOCUMENT_STATE_PROCESSING, steps=[step])


READY = pb.Document(document_id=DOCUMENT_ID, state=pb.DOCUMENT_STATE_READY)
FAILED = pb.Document(
    document_id=DOCUMENT_ID, state=pb.DOCUMENT_STATE_FAILED, failure_reason=pb.FAILURE_REASON_ENCRYPTED
)


def connections(server: ScriptedServer, *each: Sequence[pb.Document], cut: bool = True) -> None:
    """What WatchDocument sends on one connection after the other. Each but the last is cut, or just ends."""
    left = list(each)

    async def watch(request: pb.WatchDocumentRequest, context: Context) -> AsyncIterator[Message]:
        for document in left.pop(0):
            yield pb.WatchDocumentResponse(document=document)
        if cut and left:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")

    server.script("DocumentService.WatchDocument", watch)


@pytest.mark.parametrize("cut", [True, False])
async def test_watch_goes_on_after_cuts_and_repeats_nothing(
    server: ScriptedServer, client: AsyncClient, cut: bool
) -> None:
    connections(server, [], [at(0), at(0.5)], [at(0.5)], [at(0.5), at(1), READY], cut=cut)
    assert [each async for each in client.documents.watch(DOCUMENT_ID)] == [at(0), at(0.5), at(1), READY]
    requests = [call.request for call in server.called("DocumentService.WatchDocument")]
    assert [each.document_id for each in requests] == [DOCUMENT_ID] * 4


async def test_watch_that_is_left_early_ends_its_connection(server: ScriptedServer, client: AsyncClient) -> None:
    ended = asyncio.Event()

    async def watch(request: pb.WatchDocumentRequest, context: Context) -> AsyncIterator[Message]:
        try:
            yield pb.WatchDocumentResponse(document=at(0))
            await asyncio.Event().wait()
        finally:
            ended.set()

    server.script("DocumentService.WatchDocument", watch)
    documents = client.documents.watch(DOCUMENT_ID)
    assert await anext(documents) == at(0)
    await documents.aclose()
    async with asyncio.timeout(120):
        await ended.wait()


async def test_watch_of_a_deleted_document_is_not_repeated(server: ScriptedServer, client: AsyncClient) -> None:
    async def watch(request: pb.WatchDocumentRequest, context: Context) -> AsyncIterator[Message]:
        yield pb.WatchDocumentResponse(document=at(0))
        await failure(grpc.StatusCode.NOT_FOUND, message="document_id: not found.")(context)

    server.script("DocumentService.WatchDocument", watch)
    with pytest.raises(errors.NotFoundError):
        await client.documents.wait(DOCUMENT_ID)
    assert len(server.called("DocumentService.WatchDocument")) == 1


async def test_wait_longer_than_its_timeout_raises(server: ScriptedServer, client: AsyncClient) -> None:
    async def watch(request: pb.WatchDocumentRequest, context: Context) -> AsyncIterator[Message]:
        yield pb.WatchDocumentResponse(document=at(0))
        await asyncio.Event().wait()

    server.script("DocumentService.WatchDocument", watch)
    with pytest.raises(errors.DeadlineExceededError, match="was not read in time"):
        await client.documents.wait(DOCUMENT_ID, timeout=1)


@pytest.mark.parametrize("last", [READY, FAILED])
async def test_wait_returns_what_became_of_the_document(
    server: ScriptedServer, client: AsyncClient, last: pb.Document
) -> None:
    connections(server, [at(0)], [last])
    assert await client.documents.wait(DOCUMENT_ID) == last


def versions(server: ScriptedServer, sent: bytearray) -> None:
    """Take the bytes of a new version. The first stream is cut after a message."""
    upload = pb.Upload(upload_id="upload-1", document_id=DOCUMENT_ID)
    cuts = [1]

    async def replace(request: pb.ReplaceDocumentRequest, context: Context) -> Message:
        upload.size_bytes = request.size_bytes
        return pb.ReplaceDocumentResponse(upload=upload)

    async def take(requests: AsyncIterator[pb.UploadDocumentRequest], context: Context) -> Message:
        left = cuts.pop() if cuts else 1000
        async for request in requests:
            if not left:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            left -= 1
            sent[request.offset :] = request.data
        return pb.UploadDocumentResponse(document=pb.Document(document_id=DOCUMENT_ID, version=2))

    async def get(request: pb.GetUploadRequest, context: Context) -> Message:
        upload.committed_bytes = len(sent)
        return pb.GetUploadResponse(upload=upload)

    server.script("DocumentService.ReplaceDocument", replace)
    server.script("DocumentService.UploadDocument", take)
    server.script("DocumentService.GetUpload", get)


async def test_a_new_version_is_uploaded_over_a_cut(server: ScriptedServer, client: AsyncClient) -> None:
    sent, data = bytearray(), os.urandom(2 * PIECE + 1)
    versions(server, sent)
    progress: list[int] = []
    document = await client.documents.upload_version(DOCUMENT_ID, data, progress=lambda done, _: progress.append(done))
    assert (document.document_id, document.version, bytes(sent)) == (DOCUMENT_ID, 2, data)
    [request] = [call.request for call in server.called("DocumentService.ReplaceDocument")]
    assert (request.document_id, request.size_bytes) == (DOCUMENT_ID, len(data))
    assert request.sha256 == hashlib.sha256(data).hexdigest()
    assert request.request_id
    assert progress[-1] == len(data)
    assert len(server.called("DocumentService.UploadDocument")) == 2


async def test_search_and_text_are_returned_with_all_that_they_say(server: ScriptedServer, client: AsyncClient) -> None:
    server.script("DocumentService.SearchDocuments", answer(FOUND))
    server.script("DocumentService.GetDocumentText", answer(TEXT))
    filter = pb.SearchFilter(document_ids=[DOCUMENT_ID])
    assert await client.documents.search(workspace_id=WORKSPACE_ID, query="abc?", filter=filter, limit=3) == FOUND
    assert await client.documents.get_text(DOCUMENT_ID, version=2, offset=3, length=3) == TEXT
    [searched] = [call.request for call in server.called("DocumentService.SearchDocuments")]
    assert searched == pb.SearchDocumentsRequest(workspace_id=WORKSPACE_ID, query="abc?", filter=filter, limit=3)
    [read] = [call.request for call in server.called("DocumentService.GetDocumentText")]
    assert read == pb.GetDocumentTextRequest(document_id=DOCUMENT_ID, version=2, offset=3, length=3)


async def test_the_synchronous_client_follows_and_searches_too(server: ScriptedServer) -> None:
    sent, data = bytearray(), os.urandom(PIECE + 1)
    versions(server, sent)
    connections(server, [at(0)], [at(0), READY], [at(0), FAILED], [at(0), READY])
    server.script("DocumentService.SearchDocuments", answer(FOUND))
    server.script("DocumentService.GetDocumentText", answer(TEXT))

    def follow() -> None:
        with Client(server.target) as client:
            assert client.documents.upload_version(DOCUMENT_ID, data).version == 2
            assert list(client.documents.watch(DOCUMENT_ID)) == [at(0), READY]
            assert client.documents.wait(DOCUMENT_ID) == FAILED
            assert next(client.documents.watch(DOCUMENT_ID)) == at(0)
            assert client.documents.search(workspace_id=WORKSPACE_ID, query="abc") == FOUND
            assert client.documents.get_text(DOCUMENT_ID) == TEXT

    await asyncio.to_thread(follow)
    assert bytes(sent) == data
