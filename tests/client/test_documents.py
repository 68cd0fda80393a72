"""Uploads and downloads with the SDK, over connections that break."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_client import AsyncClient, Client, errors
from tests.client.conftest import Aiws
from tests.client.scripted import Context, Handler, ScriptedServer, failure

PIECE = 256 << 10
WORKSPACE_ID = "workspace-1"


class Store:
    """Answers the methods of documents as the server does; breaks each stream of `cuts` after so many messages."""

    def __init__(self, server: ScriptedServer, cuts: list[int]) -> None:
        self.cuts = cuts
        self.data = bytearray()
        self.offsets: list[int] = []
        self.versions: list[bytes] = []  # of the document, by number; all that is in `data` if there are none
        self.asked: list[str] = []  # for which versions
        self.following = b""  # the version that is made when a download is cut
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
        version_id, data = self._version("")
        document = pb.Document(document_id="document-1", version_id=version_id, size_bytes=len(data))
        return pb.GetDocumentResponse(document=document)

    def _version(self, version_id: str) -> tuple[str, bytes]:
        """The version with an id, or the latest one."""
        versions = self.versions or [bytes(self.data)]
        number = int(version_id.removeprefix("version-")) if version_id else len(versions) - 1
        return f"version-{number}", versions[number]

    async def _give(
        self, request: pb.DownloadDocumentRequest, context: Context
    ) -> AsyncIterator[pb.DownloadDocumentResponse]:
        left = self.cuts.pop(0) if self.cuts else 1000
        self.offsets.append(request.offset)
        self.asked.append(request.version_id)
        version_id, data = self._version(request.version_id)
        facts: dict[str, Any] = {
            "version_id": version_id,
            "size_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        end = request.offset + request.length if request.length else len(data)
        for begin in range(request.offset, end, PIECE):
            if not left:
                self.versions += [self.following] if self.following else []
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            left -= 1
            yield pb.DownloadDocumentResponse(offset=begin, data=data[begin : min(end, begin + PIECE)], **facts)
            facts = {}


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


async def test_a_download_stays_with_the_version_that_it_began(
    server: ScriptedServer, client: AsyncClient, tmp_path: Path
) -> None:
    store, old, new = Store(server, [2, 0]), os.urandom(4 * PIECE), os.urandom(5 * PIECE)
    store.versions, store.following = [old], new
    await client.documents.download("document-1", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == old
    assert store.asked == ["version-0"] * 3
    assert store.offsets == [0, 2 * PIECE, 2 * PIECE]


async def test_a_reader_stays_with_the_version_that_it_began(server: ScriptedServer, client: AsyncClient) -> None:
    store, old, new = Store(server, [1]), os.urandom(3 * PIECE), os.urandom(3 * PIECE)
    store.versions, store.following = [old], new
    assert await client.documents.read("document-1") == old
    assert store.asked == ["", "version-0"]
    assert await client.documents.read("document-1", version_id="version-0", offset=7) == old[7:]
    assert await client.documents.read("document-1", offset=7) == new[7:]


async def test_a_download_whose_last_bytes_arrived_asks_for_no_more(
    server: ScriptedServer, client: AsyncClient, tmp_path: Path
) -> None:
    store, data = Store(server, []), os.urandom(PIECE)
    store.data[:] = data

    async def give(request: pb.DownloadDocumentRequest, context: Context) -> AsyncIterator[pb.DownloadDocumentResponse]:
        sha256 = hashlib.sha256(data).hexdigest()
        yield pb.DownloadDocumentResponse(data=data, version_id="version-0", size_bytes=len(data), sha256=sha256)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")

    server.script("DocumentService.DownloadDocument", give)
    await client.documents.download("document-1", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert len(server.called("DocumentService.DownloadDocument")) == 1


def replaced(old: bytes, new: bytes) -> Handler:
    """Sends the beginning of a version, which another one has replaced when the client comes again."""

    async def give(request: pb.DownloadDocumentRequest, context: Context) -> AsyncIterator[pb.DownloadDocumentResponse]:
        number, data = (0, old) if not request.offset else (1, new)
        if request.offset and request.version_id:
            gone = failure(grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", metadata={"field": "version_id"})
            await gone(context)
        facts: dict[str, Any] = {"version_id": f"version-{number}", "size_bytes": len(data)}
        part = data[request.offset :] if number else data[:PIECE]
        yield pb.DownloadDocumentResponse(data=part, sha256=hashlib.sha256(data).hexdigest(), **facts)
        if not number:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")

    return give


async def test_a_download_goes_on_in_a_version_with_the_same_bytes(
    server: ScriptedServer, client: AsyncClient, tmp_path: Path
) -> None:
    data = os.urandom(2 * PIECE)
    Store(server, []).data[:] = data
    server.script("DocumentService.DownloadDocument", replaced(data, data))
    await client.documents.download("document-1", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    server.script("DocumentService.DownloadDocument", replaced(data, os.urandom(2 * PIECE)))
    with pytest.raises(errors.NotFoundError, match="was replaced or deleted"):
        await client.documents.download("document-1", tmp_path / "other")
    assert [each.name for each in tmp_path.iterdir()] == ["copy"]


async def test_a_range_that_ends_early_is_an_error(server: ScriptedServer, client: AsyncClient) -> None:
    async def give(request: pb.DownloadDocumentRequest, context: Context) -> AsyncIterator[pb.DownloadDocumentResponse]:
        yield pb.DownloadDocumentResponse(data=b"12345", offset=request.offset, version_id="version-0", size_bytes=20)

    Store(server, [])
    server.script("DocumentService.DownloadDocument", give)
    assert await client.documents.read("document-1", offset=15, length=100) == b"12345"
    with pytest.raises(errors.DataLossError, match="less than the document has"):
        await client.documents.read("document-1", offset=5, length=10)


def faulty(fault: str, data: bytes) -> Handler:
    """Sends the document in two connections, of which the second is wrong."""
    facts: dict[str, Any] = {
        "version_id": "version-0",
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }

    async def give(request: pb.DownloadDocumentRequest, context: Context) -> AsyncIterator[pb.DownloadDocumentResponse]:
        if not request.offset:
            yield pb.DownloadDocumentResponse(data=data[:PIECE], **facts)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        if fault == "deleted version":
            gone = failure(grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND", metadata={"field": "version_id"})
            await gone(context)
        if fault == "another version":
            yield pb.DownloadDocumentResponse(offset=PIECE, data=data[PIECE:], **facts | {"version_id": "version-1"})
        if fault == "wrong bytes":
            yield pb.DownloadDocumentResponse(offset=PIECE, data=data[PIECE:-1] + b"?", **facts)
        if fault == "missing bytes":
            yield pb.DownloadDocumentResponse(offset=PIECE, data=data[PIECE:-1], **facts)

    return give


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ("deleted version", errors.NotFoundError, "the document was replaced or deleted"),
        ("another version", errors.DataLossError, "another version"),
        ("wrong bytes", errors.DataLossError, "not those of the document"),
        ("missing bytes", errors.DataLossError, "less than the document has"),
    ],
)
async def test_a_download_of_wrong_bytes_fails_and_leaves_no_file(
    fault: str,
    error: type[errors.AiWorkspaceError],
    says: str,
    server: ScriptedServer,
    client: AsyncClient,
    tmp_path: Path,
) -> None:
    data = os.urandom(2 * PIECE - 1) + b"!"
    Store(server, []).data[:] = data
    server.script("DocumentService.DownloadDocument", faulty(fault, data))
    with pytest.raises(error, match=says):
        await client.documents.download("document-1", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(error, match=says):
        await client.documents.read("document-1")


@pytest.mark.usefixtures("signed_in")
async def test_the_command_fails_for_wrong_bytes_and_leaves_no_file(
    server: ScriptedServer, aiws: Aiws, tmp_path: Path
) -> None:
    data, here = os.urandom(2 * PIECE - 1) + b"!", tmp_path / "here"
    here.mkdir()
    Store(server, []).data[:] = data
    server.script("DocumentService.DownloadDocument", faulty("wrong bytes", data))
    ran = await aiws("documents", "download", "document-1", str(here / "copy"))
    assert (ran.returncode, ran.stderr.startswith("error: The bytes received are not those")) == (1, True), ran.stderr
    assert list(here.iterdir()) == []


async def test_downloads_into_one_file_do_not_mix(server: ScriptedServer, client: AsyncClient, tmp_path: Path) -> None:
    store, path = Store(server, [1, 1, 1, 1]), tmp_path / "copy"
    store.versions = [os.urandom(4 * PIECE), os.urandom(4 * PIECE)]
    await asyncio.gather(*[client.documents.download("document-1", path) for _ in range(4)])
    assert path.read_bytes() == store.versions[1]
    assert list(tmp_path.iterdir()) == [path]


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
