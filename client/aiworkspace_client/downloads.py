"""What a download receives: a version of a document or an export, over as many connections as that takes."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from aiworkspace.v1.data_pb2 import DownloadExportRequest, DownloadExportResponse
from aiworkspace.v1.document_pb2 import DownloadDocumentRequest, DownloadDocumentResponse
from aiworkspace_client import errors


class Download:
    """A range of the bytes of a document.

    The first message of the server says which version they are of. All later requests ask for the same version, or, if
    that has ended, for one with the same bytes, so that the bytes of two versions never mix.
    """

    def __init__(self, document_id: str, version_id: str = "", offset: int = 0, length: int = 0) -> None:
        """Without `version_id`, the latest version is received. A `length` of 0 means all to the end."""
        self.offset = offset
        """Of the next byte."""
        self._document_id = document_id
        self._version_id = version_id
        self._end = offset + length if length else None
        self._is_whole = not (offset or length)
        self._size = -1
        self._sha256 = ""
        self._gone: errors.NotFoundError | None = None
        self._digest = hashlib.sha256()

    @property
    def is_complete(self) -> bool:
        return self.offset in (self._end, self._size)

    def request(self) -> DownloadDocumentRequest:
        """Return the request for the bytes that are missing."""
        length = self._end - self.offset if self._end else 0
        return DownloadDocumentRequest(
            document_id=self._document_id, version_id=self._version_id, offset=self.offset, length=length
        )

    def take(self, response: DownloadDocumentResponse) -> bytes:
        """Return the bytes of a message. Raises DataLossError if they are of another version.

        Raises NotFoundError if the version has ended, and the one that the document has now has other bytes.
        """
        if response.version_id:
            if self._version_id not in ("", response.version_id):
                raise errors.DataLossError("The server sent another version of the document. Download it again.")
            if self._gone and self._sha256 not in ("", response.sha256):
                raise version_is_gone(self._gone)
            self._version_id, self._gone = response.version_id, None
            self._size, self._sha256 = response.size_bytes, response.sha256
        self.offset += len(response.data)
        if self._is_whole:
            self._digest.update(response.data)
        return response.data

    def lose_version(self, error: errors.NotFoundError) -> None:
        """Ask for the version that the document has now, because the one before has ended: its bytes may be the same.

        Raises NotFoundError if nothing is known of its bytes.
        """
        if self._gone or not self._sha256:
            raise version_is_gone(error) from error
        self._version_id, self._gone = "", error

    def check(self) -> None:
        """Raise DataLossError if bytes are missing, or if those of a whole version are different."""
        if self.offset < min(self._end or self._size, self._size):
            raise errors.DataLossError("The server sent less than the document has. Download it again.")
        if self._is_whole and self._sha256 and self._digest.hexdigest() != self._sha256:
            raise errors.DataLossError("The bytes received are not those of the document. Download it again.")


class ExportDownload:
    """The bytes of an export, from the beginning to the end."""

    def __init__(self, org_id: str, export_id: str) -> None:
        self.offset = 0
        """Of the next byte."""
        self.size = -1
        self._org_id = org_id
        self._export_id = export_id
        self._sha256 = ""
        self._digest = hashlib.sha256()

    @property
    def is_complete(self) -> bool:
        return self.offset == self.size

    def request(self) -> DownloadExportRequest:
        """Return the request for the bytes that are missing."""
        return DownloadExportRequest(org_id=self._org_id, export_id=self._export_id, offset=self.offset)

    def take(self, response: DownloadExportResponse) -> bytes:
        """Return the bytes of a message."""
        if response.sha256:
            self.size, self._sha256 = response.size_bytes, response.sha256
        self.offset += len(response.data)
        self._digest.update(response.data)
        return response.data

    def check(self) -> None:
        """Raise DataLossError if bytes are missing or different."""
        if not self.is_complete or self._digest.hexdigest() != self._sha256:
            raise errors.DataLossError("The bytes received are not those of the export. Download it again.")


def version_is_gone(error: errors.NotFoundError) -> errors.NotFoundError:
    """Return what to raise instead of the server's error about a version, so that it says what to do."""
    return errors.NotFoundError(
        "This version of the document is gone: the document was replaced or deleted. Download the document again.",
        reason=error.reason,
        metadata=error.metadata,
        request_id=error.request_id,
    )


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """Open a new file in the target's folder, which takes the target's place at the end.

    After an error there is no such file, and the target is as it was. A process that is killed leaves
    `.<name>.<random>.part`.
    """
    part = target.with_name(f".{target.name[:100]}.{uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
