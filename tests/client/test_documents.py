"""Uploads and downloads with the SDK, over connections that break."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import grpc
import pytest

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_client import AsyncClient, Client, errors
from tests.client.scripted import Context, ScriptedServer

PIECE = 256 << 10
WORKSPACE_ID = "workspace-1"


class Store:
    """Answers the methods of documents as the server does; breaks each stream of `cuts` after so many messages."""

    def __init__(self, server: ScriptedServer, cuts: list[int]) -> None:
        self.cuts = cuts
        self.data = bytearray()
        self.offsets: list[int] = []
        self.upload = pb.Upload(upload_id="upload-1")
        server.script("DocumentService.CreateUpload", self._create)
        server.script("DocumentService.GetUpload", self._get)
        server.script("DocumentService.UploadDocument", self._take)
        server.script("DocumentService.DownloadDocument", self._give)
        server.script("DocumentService.GetDocument", self._document)

    async def _create(self, request: pb.CreateUploadRequest, context: Context) -> pb.CreateUploadResponse:
        self.request = request
        self.upload.size_bytes = request.size_bytes
        return pb.CreateUploadResponse(upload=self.upload)

    async def _get(self, request: pb.GetUploadRequest, context: Context) -> pb.GetUploadResponse:
        self.upload.committed_bytes = len(self.data)
        return pb.GetUploadResponse(upload=self.upload)

    async def _take(
        self, requests: AsyncIterator[pb.UploadDocumentRequest], context: Context
    ) -> pb.UploadDocumentResponse:
        left = self.cuts.pop(0) if self.cuts else 1000
        begun = False
        async for request in requests:
            if not begun:
                self.offsets.append(request.offset)
                begun = True
            if not left:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            left -= 1
            self.data[request.offset :] = request.data
            if request.finish:
                return pb.UploadDocumentResponse(document=pb.Document(document_id="document-1", name=self.request.name))
        return pb.UploadDocumentResponse(committed_bytes=len(self.data))

    async def _document(self, request: pb.GetDocumentRequest, context: Context) -> pb.GetDocumentResponse:
        return pb.GetDocumentResponse(document=pb.Document(document_id="document-1", size_bytes=len(self.data)))

    async def _give(
        self, request: pb.DownloadDocumentRequest, context: Context
    ) -> AsyncIterator[pb.DownloadDocumentResponse]:
        left = self.cuts.pop(0) if self.cuts else 1000
        self.offsets.append(request.offset)
        end = request.offset + request.length if request.length else len(self.data)
        for begin in range(request.offset, end, PIECE):
            if not left:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            left -= 1
            yield pb.DownloadDocumentResponse(offset=begin, data=bytes(self.data[begin : min(end, begin + PIECE)]))


async def test_a_file_is_uploaded_with_its_name_and_hash(
    server: ScriptedServer, client: AsyncClient, tmp_path: Path
) -> None:
    store, data, path = Store(server, []), os.urandom(2 * PIECE + 7), tmp_path / "report.pdf"
    path.write_bytes(data)
    steps: list[tuple[int, int]] = []
    document = await client.documents.upload(WORKSPACE_ID, path, progress=lambda *step: steps.append(step))
    assert (document.document_id, document.name) == ("document-1", "report.pdf")
    assert bytes(store.data) == data
    assert (store.request.size_bytes, store.request.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert steps == [(PIECE, len(data)), (2 * PIECE, len(data)), (len(data), len(data))]


async def test_an_upload_goes_on_after_cuts(server: ScriptedServer, client: AsyncClient) -> None:
    store, data = Store(server, [0, 2, 1, 0]), os.urandom(5 * PIECE + 1)
    await client.documents.upload(WORKSPACE_ID, data, name="data")
    assert bytes(store.data) == data
    assert store.offsets == [0, 0, 2 * PIECE, 3 * PIECE, 3 * PIECE]


async def test_a_refusal_is_not_repeated(server: ScriptedServer, client: AsyncClient) -> None:
    Store(server, [])

    async def refuse(requests: AsyncIterator[pb.UploadDocumentRequest], context: Context) -> NoReturn:
        _ = [each async for each in requests]
        await context.abort(grpc.StatusCode.NOT_FOUND, "upload_id: not found.")

    server.script("DocumentService.UploadDocument", refuse)
    with pytest.raises(errors.NotFoundError):
        await client.documents.upload(WORKSPACE_ID, b"x", name="x")
    assert len(server.called("DocumentService.UploadDocument")) == 1


async def test_bytes_need_a_name(client: AsyncClient) -> None:
    with pytest.raises(ValueError, match="name"):
        await client.documents.upload(WORKSPACE_ID, b"x")


async def test_a_download_goes_on_after_cuts(server: ScriptedServer, client: AsyncClient, tmp_path: Path) -> None:
    store = Store(server, [1, 0, 3])
    store.data[:] = data = os.urandom(5 * PIECE + 1)
    await client.documents.download("document-1", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert store.offsets == [0, PIECE, PIECE, 4 * PIECE]
    assert [each.name for each in tmp_path.iterdir()] == ["copy"]


async def test_a_download_that_fails_leaves_the_file_as_it_was(
    server: ScriptedServer, client: AsyncClient, tmp_path: Path
) -> None:
    Store(server, [])

    async def refuse(
        request: pb.DownloadDocumentRequest, context: Context
    ) -> AsyncIterator[pb.DownloadDocumentResponse]:
        yield pb.DownloadDocumentResponse(data=b"new")
        await context.abort(grpc.StatusCode.NOT_FOUND, "document_id: not found.")

    server.script("DocumentService.DownloadDocument", refuse)
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(errors.NotFoundError):
        await client.documents.download("document-1", path)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


async def test_ranges_are_read(server: ScriptedServer, client: AsyncClient) -> None:
    store = Store(server, [1])
    store.data[:] = data = os.urandom(3 * PIECE)
    assert await client.documents.read("document-1", offset=5, length=PIECE + 10) == data[5 : PIECE + 15]


async def test_the_synchronous_client_does_the_same(server: ScriptedServer, tmp_path: Path) -> None:
    store, data = Store(server, [1]), os.urandom(PIECE + 1)

    def transfer() -> bytes:
        with Client(server.target) as client:
            client.documents.upload(WORKSPACE_ID, data, name="data")
            client.documents.download("document-1", tmp_path / "copy")
            assert (tmp_path / "copy").read_bytes() == data
            return client.documents.read("document-1", length=3)

    assert await asyncio.to_thread(transfer) == data[:3]
    assert bytes(store.data) == data
