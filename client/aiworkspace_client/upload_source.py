"""What an upload sends: a file or bytes, in the messages of a stream."""

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from aiworkspace.v1.document_pb2 import Upload, UploadDocumentRequest

_MESSAGE_BYTES = 256 << 10

Source = str | os.PathLike[str] | bytes
Progress = Callable[[int, int], None]


def opened(source: Source) -> io.BufferedIOBase:
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")


def measure(file: io.BufferedIOBase) -> tuple[int, str]:
    """Return size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    while data := file.read(_MESSAGE_BYTES):
        digest.update(data)
        size += len(data)
    return size, digest.hexdigest()


async def messages(
    file: io.BufferedIOBase, upload: Upload, offset: int, progress: Progress | None
) -> AsyncIterator[UploadDocumentRequest]:
    await asyncio.to_thread(file.seek, offset)
    finish = False
    while not finish:
        data = await asyncio.to_thread(file.read, _MESSAGE_BYTES)
        finish = offset + len(data) >= upload.size_bytes or not data
        yield UploadDocumentRequest(upload_id=upload.upload_id, offset=offset, data=data, finish=finish)
        offset += len(data)
        if progress:
            progress(offset, upload.size_bytes)
