"""The documents namespace: the generated methods, uploads and downloads."""

import asyncio
import io
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path

from aiworkspace.v1.document_pb2 import (
    DOCUMENT_STATE_PROCESSING,
    Document,
    Upload,
    WatchDocumentRequest,
)
from aiworkspace_client import errors
from aiworkspace_client._generated.aio import documents as aio
from aiworkspace_client._generated.sync import documents as sync
from aiworkspace_client.downloads import Download, replacing
from aiworkspace_client.pager import anext_or_none
from aiworkspace_client.portal import Portal
from aiworkspace_client.reconnection import Reconnection
from aiworkspace_client.transport import Deadline
from aiworkspace_client.upload_source import Progress, Source, measure, messages, opened
from aiworkspace_client.values import new_request_id

_GIVE_UP_SECONDS = 60.0  # without any progress
_CONNECTION_SECONDS = 3600.0


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
        timeout: float | None = None,
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
        reconnection = self._reconnection(timeout)
        with opened(source) as file:
            size, sha256 = await asyncio.to_thread(measure, file)
            upload = await self.create_upload(
                workspace_id=workspace_id,
                name=name,
                size_bytes=size,
                sha256=sha256,
                collection_ids=collection_ids,
                request_id=request_id or new_request_id(),
                timeout=timeout,
            )
            return await self._send(file, upload, progress, reconnection)

    async def upload_version(
        self,
        document_id: str,
        source: Source,
        *,
        progress: Progress | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Document:
        """Upload a new version of a document. After a broken connection, the upload goes on where it stopped.

        The old version answers searches until the new one is READY.

        Args:
            document_id: The document.
            source: Path of a file, or the bytes themselves.
            progress: Called with the bytes sent so far and the size.
            request_id: UUID that makes the call idempotent. A new one by default.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        reconnection = self._reconnection(timeout)
        with opened(source) as file:
            size, sha256 = await asyncio.to_thread(measure, file)
            upload = await self.replace(
                document_id=document_id,
                size_bytes=size,
                sha256=sha256,
                request_id=request_id or new_request_id(),
                timeout=timeout,
            )
            return await self._send(file, upload, progress, reconnection)

    async def watch(
        self,
        document_id: str,
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[Document, None]:
        """Yield the document at once and whenever a step makes progress, until it is READY or FAILED.

        After a broken connection, it is watched on.

        Args:
            document_id: The document.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        reconnection, seen = self._reconnection(timeout, "The document was not read in time."), None
        request = WatchDocumentRequest(document_id=document_id)
        while seen is None or seen.state == DOCUMENT_STATE_PROCESSING:
            try:
                async with aclosing(
                    reconnection.responses(aio.WATCH_DOCUMENT, request, _CONNECTION_SECONDS)
                ) as responses:
                    async for response in responses:
                        reconnection.progressed()
                        if response.document != seen:
                            seen = response.document
                            yield seen
                if seen is None or seen.state == DOCUMENT_STATE_PROCESSING:
                    raise errors.UnavailableError("The stream ended before the document was read.")
            except errors.AiWorkspaceError as error:
                await reconnection.recover(error)

    async def wait(
        self,
        document_id: str,
        *,
        timeout: float | None = None,
    ) -> Document:
        """Return the document once it is READY or FAILED: see its state and failure_reason.

        Args:
            document_id: The document.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        async with aclosing(self.watch(document_id, timeout=timeout)) as documents:
            async for document in documents:
                last = document
        return last

    async def _send(
        self, file: io.BufferedIOBase, upload: Upload, progress: Progress | None, reconnection: Reconnection
    ) -> Document:
        """Send the bytes of an upload until there is a document."""
        offset = upload.committed_bytes
        while True:
            parts = messages(file, upload, offset, progress)
            try:
                tokens, seconds = await reconnection.tokens(), reconnection.seconds(_CONNECTION_SECONDS)
                return (await self._transport.send_stream(aio.UPLOAD_DOCUMENT, parts, tokens, seconds)).document
            except errors.AiWorkspaceError as error:
                await reconnection.recover(error)
            committed = (await self.get_upload(upload.upload_id)).committed_bytes
            if committed > offset:
                reconnection.progressed()
            offset = committed

    async def download(
        self,
        document_id: str,
        path: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Document:
        """Download a document into a file, which is there once it is complete and checked. Return the document.

        After a broken connection, the download goes on where it stopped, with the same version of the document.

        Args:
            document_id: The document.
            path: The file. An existing one is replaced.
            progress: Called with the bytes received so far and the size.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        document = await self.get(document_id)
        download = Download(document_id, document.version_id)
        with replacing(Path(path)) as file:
            async with aclosing(self._parts(download, timeout)) as parts:
                async for data in parts:
                    await asyncio.to_thread(file.write, data)
                    if progress:
                        progress(download.offset, document.size_bytes)
        return document

    async def read(
        self,
        document_id: str,
        *,
        offset: int = 0,
        length: int = 0,
        version_id: str = "",
        timeout: float | None = None,
    ) -> bytes:
        """Return the bytes of a document, or a range of them.

        Args:
            document_id: The document.
            offset: The first byte to return.
            length: How many bytes to return. 0 means all to the end.
            version_id: The version. By default the latest one.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        download = Download(document_id, version_id, offset, length)
        return b"".join([data async for data in self._parts(download, timeout)])

    async def _parts(self, download: Download, seconds: float | None) -> AsyncGenerator[bytes, None]:
        reconnection, ended = self._reconnection(seconds), False
        while not (ended or download.is_complete):
            try:
                request = download.request()
                parts = reconnection.responses(aio.DOWNLOAD_DOCUMENT, request, _CONNECTION_SECONDS)
                async with aclosing(parts) as responses:
                    async for response in responses:
                        data = download.take(response)
                        reconnection.progressed()
                        yield data
                ended = True
            except errors.NotFoundError as error:
                if error.metadata.get("field") != "version_id":
                    raise
                download.lose_version(error)
            except errors.AiWorkspaceError as error:
                await reconnection.recover(error)
        download.check()

    def _reconnection(self, seconds: float | None, overdue: str = "The transfer did not end in time.") -> Reconnection:
        deadline = None if seconds is None else Deadline(seconds)
        return Reconnection(self._transport, deadline, _GIVE_UP_SECONDS, overdue, _is_cut)


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

    def upload_version(
        self,
        document_id: str,
        source: Source,
        *,
        progress: Progress | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Document:
        """Upload a new version of a document. After a broken connection, the upload goes on where it stopped.

        The old version answers searches until the new one is READY.

        Args:
            document_id: The document.
            source: Path of a file, or the bytes themselves.
            progress: Called with the bytes sent so far and the size, in another thread.
            request_id: UUID that makes the call idempotent. A new one by default.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        return self._portal.run(
            self._documents.upload_version(
                document_id, source, progress=progress, request_id=request_id, timeout=timeout
            )
        )

    def watch(self, document_id: str, *, timeout: float | None = None) -> Iterator[Document]:
        """Yield the document at once and whenever a step makes progress, until it is READY or FAILED.

        After a broken connection, it is watched on.

        Args:
            document_id: The document.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        documents = self._documents.watch(document_id, timeout=timeout)
        try:
            while (document := self._portal.run(anext_or_none(documents))) is not None:
                yield document
        finally:
            self._portal.run(documents.aclose())

    def wait(self, document_id: str, *, timeout: float | None = None) -> Document:
        """Return the document once it is READY or FAILED: see its state and failure_reason.

        Args:
            document_id: The document.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        return self._portal.run(self._documents.wait(document_id, timeout=timeout))

    def download(
        self,
        document_id: str,
        path: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Document:
        """Download a document into a file, which is there once it is complete and checked. Return the document.

        After a broken connection, the download goes on where it stopped, with the same version of the document.

        Args:
            document_id: The document.
            path: The file. An existing one is replaced.
            progress: Called with the bytes received so far and the size, in another thread.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        return self._portal.run(self._documents.download(document_id, path, progress=progress, timeout=timeout))

    def read(
        self,
        document_id: str,
        *,
        offset: int = 0,
        length: int = 0,
        version_id: str = "",
        timeout: float | None = None,
    ) -> bytes:
        """Return the bytes of a document, or a range of them.

        Args:
            document_id: The document.
            offset: The first byte to return.
            length: How many bytes to return. 0 means all to the end.
            version_id: The version. By default the latest one.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        return self._portal.run(
            self._documents.read(document_id, offset=offset, length=length, version_id=version_id, timeout=timeout)
        )


def _is_cut(error: errors.AiWorkspaceError) -> bool:
    """Return whether another connection may help."""
    return errors.is_cut(error) or error.reason == "UPLOAD_TAKEN_OVER"
