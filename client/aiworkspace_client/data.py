"""The data namespace: the generated methods, and exports that are waited for and downloaded."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from aiworkspace.v1.data_pb2 import EXPORT_STATE_PENDING, EXPORT_STATE_RUNNING, Export
from aiworkspace_client import errors
from aiworkspace_client._generated.aio import data as aio
from aiworkspace_client._generated.sync import data as sync
from aiworkspace_client.downloads import ExportDownload, replacing
from aiworkspace_client.portal import Portal
from aiworkspace_client.reconnection import Reconnection
from aiworkspace_client.transport import Deadline
from aiworkspace_client.upload_source import Progress

_GIVE_UP_SECONDS = 60.0  # without any progress
_CONNECTION_SECONDS = 3600.0
_POLL_SECONDS = 1.0
_IN_PROGRESS = EXPORT_STATE_PENDING, EXPORT_STATE_RUNNING

Seen = Callable[[Export], object]


class AsyncData(aio.AsyncData):
    __doc__ = aio.AsyncData.__doc__

    async def wait_for_export(
        self,
        *,
        org_id: str,
        export_id: str,
        seen: Seen | None = None,
        timeout: float | None = None,  # of calls and pauses together
    ) -> Export:
        """Return the export once it is READY or FAILED: see its state and failure_reason.

        Args:
            org_id: The organization.
            export_id: The export.
            seen: Called with the export each time it is asked for, about once a second.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        deadline = None if timeout is None else Deadline(timeout)
        while True:
            export = await self.get_export(org_id=org_id, export_id=export_id)
            if seen:
                seen(export)
            if export.state not in _IN_PROGRESS:
                return export
            if deadline and not deadline.left:
                raise errors.DeadlineExceededError("The export was not ready in time.")
            await asyncio.sleep(min(_POLL_SECONDS, deadline.left) if deadline else _POLL_SECONDS)

    async def download_export(
        self,
        path: str | os.PathLike[str],
        *,
        org_id: str,
        export_id: str,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> None:
        """Download an export into a file, which is there once it is complete and its SHA-256 is right.

        After a broken connection, the download goes on where it stopped.

        Args:
            path: The file. An existing one is replaced.
            org_id: The organization.
            export_id: The export, which is READY.
            progress: Called with the bytes received so far and the size.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        download = ExportDownload(org_id, export_id)
        with replacing(Path(path)) as file:
            async with aclosing(self._parts(download, timeout)) as parts:
                async for data in parts:
                    await asyncio.to_thread(file.write, data)
                    if progress:
                        progress(download.offset, download.size)

    async def _parts(self, download: ExportDownload, seconds: float | None) -> AsyncGenerator[bytes, None]:
        deadline, overdue = None if seconds is None else Deadline(seconds), "The download did not end in time."
        reconnection, ended = Reconnection(self._transport, deadline, _GIVE_UP_SECONDS, overdue), False
        while not (ended or download.is_complete):
            try:
                parts = reconnection.responses(aio.DOWNLOAD_EXPORT, download.request(), _CONNECTION_SECONDS)
                async with aclosing(parts) as responses:
                    async for response in responses:
                        data = download.take(response)
                        reconnection.progressed()
                        yield data
                ended = True
            except errors.AiWorkspaceError as error:
                await reconnection.recover(error)
        download.check()


class Data(sync.Data):
    __doc__ = sync.Data.__doc__

    def __init__(self, portal: Portal, namespace: AsyncData) -> None:
        super().__init__(portal, namespace)
        self._exports = namespace

    def wait_for_export(
        self, *, org_id: str, export_id: str, seen: Seen | None = None, timeout: float | None = None
    ) -> Export:
        """Return the export once it is READY or FAILED: see its state and failure_reason.

        Args:
            org_id: The organization.
            export_id: The export.
            seen: Called with the export each time it is asked for, about once a second, in another thread.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        waiting = self._exports.wait_for_export(org_id=org_id, export_id=export_id, seen=seen, timeout=timeout)
        return self._portal.run(waiting)

    def download_export(
        self,
        path: str | os.PathLike[str],
        *,
        org_id: str,
        export_id: str,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> None:
        """Download an export into a file, which is there once it is complete and its SHA-256 is right.

        After a broken connection, the download goes on where it stopped.

        Args:
            path: The file. An existing one is replaced.
            org_id: The organization.
            export_id: The export, which is READY.
            progress: Called with the bytes received so far and the size, in another thread.
            timeout: Seconds after which DeadlineExceededError is raised. None means no timeout.
        """
        self._portal.run(
            self._exports.download_export(path, org_id=org_id, export_id=export_id, progress=progress, timeout=timeout)
        )
