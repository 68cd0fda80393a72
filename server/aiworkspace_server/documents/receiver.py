"""Takes the bytes of an upload from a stream."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

from aiworkspace.v1 import common_pb2 as pb
from aiworkspace.v1 import document_pb2

from ..kit.errors import OutOfRange
from .content import PIECE_BYTES, Content, Stored
from .models import Upload


class Mismatch(Exception):
    """The bytes are not those that were declared."""


class Receiver:
    """Takes the bytes of one stream, and stores them piece by piece."""

    def __init__(self, upload: Upload, content: Content, stored: Stored, check: Callable[[], Awaitable[None]]) -> None:
        """`check` is called before a piece is stored, and raises if it must not be stored."""
        self._upload = upload
        self._content = content
        self._check = check
        self._pieces = stored.pieces
        self.committed_bytes = stored.size
        self._received = stored.size
        self._rest = bytearray()  # what is not a whole piece yet
        # Of everything, if this stream brings everything; otherwise the stored bytes are read again at the end.
        self._hash = hashlib.sha256() if stored.size == 0 else None

    async def take_all(self, messages: AsyncIterator[document_pb2.UploadDocumentRequest]) -> bool:
        """Take messages up to the one that finishes. Return False if there is none."""
        async for message in messages:
            self._take(message.offset, message.data)
            while len(self._rest) >= PIECE_BYTES:
                await self._store(PIECE_BYTES)
            if message.finish:
                if self._received < self._upload.size_bytes:
                    raise self._wrong_size()
                if self._rest:
                    await self._store(len(self._rest))
                return True
        return False

    def _take(self, offset: int, data: bytes) -> None:
        if offset > self._received:
            message = f"offset: the next byte is {self._received:,}; go on at {self.committed_bytes:,} in a new stream."
            metadata = {"committed_bytes": str(self.committed_bytes)}
            raise OutOfRange(pb.ERROR_REASON_UPLOAD_GAP, message, metadata=metadata)
        new = data[self._received - offset :]
        self._received += len(new)
        if self._received > self._upload.size_bytes:
            raise self._wrong_size()
        if self._hash:
            self._hash.update(new)
        self._rest += new

    async def _store(self, size: int) -> None:
        await self._check()
        await self._content.append(self._upload.id, self._pieces, bytes(self._rest[:size]))
        del self._rest[:size]
        self._pieces += 1
        self.committed_bytes += size

    async def check_content(self) -> None:
        """Raise Mismatch if the SHA-256 of what is stored is not the declared one."""
        found = self._hash
        if found is None:
            found = hashlib.sha256()
            async for part in self._content.read(self._upload.id):
                found.update(part)
        if found.digest() != self._upload.sha256:
            raise Mismatch(f"has the SHA-256 {found.hexdigest()}, not {self._upload.sha256.hex()}")

    def _wrong_size(self) -> Mismatch:
        more = "more than " if self._received > self._upload.size_bytes else ""
        given = min(self._received, self._upload.size_bytes)
        return Mismatch(f"has {more}{given:,} bytes, not {self._upload.size_bytes:,}")
