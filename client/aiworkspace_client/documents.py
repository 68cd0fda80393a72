"""The documents namespace: the generated methods, uploads and downloads."""

import asyncio
import hashlib
import io
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import grpc

from aiworkspace.v1.document_pb2 import (
    Document,
    DownloadDocumentRequest,
    DownloadDocumentResponse,
    UploadDocumentRequest,
)
from aiworkspace_client import errors
from aiworkspace_client._generated.aio import documents as aio
from aiworkspace_client._generated.sync import documents as sync
from aiworkspace_client.portal import Portal
from aiworkspace_client.tokens import Tokens
from aiworkspace_client.transport import Deadline, Transport
from aiworkspace_client.values import new_request_id

_MESSAGE_BYTES = 256 << 10
_GIVE_UP_SECONDS = 60.0  # without any progress
_STREAM_SECONDS = 3600.0  # of one connection

Source = str | os.PathLike[str] | bytes
Progress = Callable[[int, int], None]


class AsyncDocuments(aio.AsyncDocuments):
    __doc__ = aio.AsyncDocuments.__doc__

    async def upload(
        self,
        workspace_id: str,
        source: Source,
        *,
        name: str = "",
        collection_ids: Sequence[str] = (),
        progress: Progress | None = None,
        request_id: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it is sent to the server
    ) -> Document:
        """Upload a document. After a broken connection, the upload goes on where it stopped.

        Args:
            workspace_id: The workspace.
            source: Path of a file, or the bytes themselves.
            name: Name of the document. By default that of the file.
            collection_ids: UUIDs of the collections that the document will be in, at most 50.
            progress: Called with the bytes sent so far and the size.
            request_id: UUID that makes the call idempotent. A new one by default.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        name = name or ("" if isinstance(source, bytes) else Path(source).name)
        if not name:
            raise ValueError("name: bytes need a name")
        deadline = None if timeout is None else Deadline(timeout)
        with _opened(source) as file:
            size, sha256 = await asyncio.to_thread(_measure, file)
            upload = await self.create_upload(
                workspace_id=workspace_id,
                name=name,
                size_bytes=size,
                sha256=sha256,
                collection_ids=collection_ids,
                request_id=request_id or new_request_id(),
            )
            patience, offset = _Patience(self._transport, deadline), upload.committed_bytes
            while True:
                tokens = await self._transport.tokens.current()
                messages = _messages(file, upload.upload_id, offset, size, progress)
                try:
                    response = await self._transport.send_stream(
                        aio.UPLOAD_DOCUMENT, messages, tokens, patience.seconds
                    )
                except errors.AiWorkspaceError as error:
                    await patience.recover(error, tokens)
                else:
                    return response.document
                committed = (await self.get_upload(upload.upload_id)).committed_bytes
                if committed > offset:
                    patience.progressed()
                offset = committed

    async def download(
        self,
        document_id: str,
        path: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it is sent to the server
    ) -> Document:
        """Download a document into a file, which is there once it is complete. Return the document.

        After a broken connection, the download goes on where it stopped.

        Args:
            document_id: The document.
            path: The file. An existing one is replaced.
            progress: Called with the bytes received so far and the size.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        document = await self.get(document_id)
        target = Path(path)
        part = target.with_name(f"{target.name}.part")
        try:
            with part.open("wb") as file:
                received = 0
                async for data in self._parts(document_id, 0, 0, timeout):
                    await asyncio.to_thread(file.write, data)
                    received += len(data)
                    if progress:
                        progress(received, document.size_bytes)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return document

    async def read(
        self,
        document_id: str,
        *,
        offset: int = 0,
        length: int = 0,
        timeout: float | None = None,  # noqa: ASYNC109 - it is sent to the server
    ) -> bytes:
        """Return the bytes of a document, or a range of them.

        Args:
            document_id: The document.
            offset: The first byte to return.
            length: How many bytes to return. 0 means all to the end.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        return b"".join([data async for data in self._parts(document_id, offset, length, timeout)])

    async def _parts(self, document_id: str, offset: int, length: int, seconds: float | None) -> AsyncIterator[bytes]:
        patience = _Patience(self._transport, None if seconds is None else Deadline(seconds))
        end = offset + length if length else None
        while True:
            tokens = await self._transport.tokens.current()
            left = end - offset if end is not None else 0
            request = DownloadDocumentRequest(document_id=document_id, offset=offset, length=left)
            call = self._transport.stream(aio.DOWNLOAD_DOCUMENT, request, tokens, patience.seconds)
            try:
                try:
                    while isinstance(response := await call.read(), DownloadDocumentResponse):
                        offset += len(response.data)
                        patience.progressed()
                        yield response.data
                except grpc.aio.AioRpcError as error:
                    raise errors.from_rpc(error) from error
            except errors.AiWorkspaceError as error:
                if end is not None and offset >= end:
                    return
                await patience.recover(error, tokens)
            else:
                return
            finally:
                call.cancel()


class Documents(sync.Documents):
    __doc__ = sync.Documents.__doc__

    def __init__(self, portal: Portal, namespace: AsyncDocuments) -> None:
        super().__init__(portal, namespace)
        self._documents = namespace

    def upload(
        self,
        workspace_id: str,
        source: Source,
        *,
        name: str = "",
        collection_ids: Sequence[str] = (),
        progress: Progress | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Document:
        """Upload a document. After a broken connection, the upload goes on where it stopped.

        Args:
            workspace_id: The workspace.
            source: Path of a file, or the bytes themselves.
            name: Name of the document. By default that of the file.
            collection_ids: UUIDs of the collections that the document will be in, at most 50.
            progress: Called with the bytes sent so far and the size, in another thread.
            request_id: UUID that makes the call idempotent. A new one by default.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        return self._portal.run(
            self._documents.upload(
                workspace_id,
                source,
                name=name,
                collection_ids=collection_ids,
                progress=progress,
                request_id=request_id,
                timeout=timeout,
            )
        )

    def download(
        self,
        document_id: str,
        path: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Document:
        """Download a document into a file, which is there once it is complete. Return the document.

        After a broken connection, the download goes on where it stopped.

        Args:
            document_id: The document.
            path: The file. An existing one is replaced.
            progress: Called with the bytes received so far and the size, in another thread.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        return self._portal.run(self._documents.download(document_id, path, progress=progress, timeout=timeout))

    def read(self, document_id: str, *, offset: int = 0, length: int = 0, timeout: float | None = None) -> bytes:
        """Return the bytes of a document, or a range of them.

        Args:
            document_id: The document.
            offset: The first byte to return.
            length: How many bytes to return. 0 means all to the end.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        return self._portal.run(self._documents.read(document_id, offset=offset, length=length, timeout=timeout))


class _Patience:
    """Decides after an error whether to go on, and waits before that."""

    def __init__(self, transport: Transport, deadline: Deadline | None) -> None:
        self._transport = transport
        self._deadline = deadline
        self._failures = 0
        self._failing_since = 0.0
        self._renewed = False

    @property
    def seconds(self) -> float:
        """How long a connection may last."""
        return _STREAM_SECONDS if self._deadline is None else self._deadline.left

    def progressed(self) -> None:
        self._failures, self._renewed = 0, False

    async def recover(self, error: errors.AiWorkspaceError, tokens: Tokens | None) -> None:
        """Wait before another attempt. Raises the error if that cannot help."""
        if self._deadline is not None and not self._deadline.left:
            raise errors.DeadlineExceededError("The transfer did not end in time.") from error
        if isinstance(error, errors.UnauthenticatedError) and not self._renewed:
            self._renewed = await self._transport.renewed(error, tokens) is not None
            if self._renewed:
                return
        if self._transport.closed or not (errors.is_cut(error) or error.reason == "UPLOAD_TAKEN_OVER"):
            raise error
        self._failures += 1
        if self._failures == 1:
            self._failing_since = time.monotonic()
        pause = self._transport.backoff.pause(self._failures, error.retry_after)
        if time.monotonic() - self._failing_since + pause > _GIVE_UP_SECONDS:
            raise error
        await asyncio.sleep(pause if self._deadline is None else min(pause, self._deadline.left))


def _opened(source: Source) -> io.BufferedIOBase:
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")


def _measure(file: io.BufferedIOBase) -> tuple[int, str]:
    """Return size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    while data := file.read(_MESSAGE_BYTES):
        digest.update(data)
        size += len(data)
    return size, digest.hexdigest()


async def _messages(
    file: io.BufferedIOBase, upload_id: str, offset: int, size: int, progress: Progress | None
) -> AsyncIterator[UploadDocumentRequest]:
    await asyncio.to_thread(file.seek, offset)
    while True:
        data = await asyncio.to_thread(file.read, _MESSAGE_BYTES)
        finish = offset + len(data) >= size or not data
        yield UploadDocumentRequest(upload_id=upload_id, offset=offset, data=data, finish=finish)
        offset += len(data)
        if progress:
            progress(offset, size)
        if finish:
            return
