"""The bytes of documents in MongoDB, as GridFS keeps them: in pieces of 256 KiB.

The pieces also have org_id, and are written and read through the tenant's collections, which a driver's GridFS bucket
cannot do. Other tools that know GridFS can read them.
"""

from collections.abc import AsyncGenerator
from typing import NamedTuple
from uuid import UUID

from pymongo.errors import DuplicateKeyError

from ..kit.mongo import Mongo, Tenant
from ..kit.timestamps import now

PIECE_BYTES = 256 << 10
_PIECES_READ_AT_ONCE = 4


class PieceExists(Exception):
    """Another stream has stored this piece."""


class Stored(NamedTuple):
    """What is stored of a file."""

    pieces: int
    size: int


class Content:
    """The files of one organization. A file has no name: its id is that of the upload that brought it."""

    def __init__(self, mongo: Mongo, org_id: UUID) -> None:
        self._pieces: Tenant = mongo.tenant("documents.chunks", org_id)
        self._files: Tenant = mongo.tenant("documents.files", org_id)

    async def stored(self, file_id: UUID) -> Stored:
        last = await self._pieces.find({"files_id": file_id}, ["n", "data"]).sort("n", -1).limit(1).to_list()
        if not last:
            return Stored(0, 0)
        return Stored(last[0]["n"] + 1, last[0]["n"] * PIECE_BYTES + len(last[0]["data"]))

    async def append(self, file_id: UUID, number: int, data: bytes) -> None:
        """Store a piece, the first of which has number 0. All but the last have PIECE_BYTES. Raises PieceExists."""
        try:
            await self._pieces.insert({"files_id": file_id, "n": number, "data": data})
        except DuplicateKeyError:
            raise PieceExists from None

    async def complete(self, file_id: UUID, size: int) -> None:
        """Note that all pieces are stored. Idempotent."""
        await self._files.save({"_id": file_id, "length": size, "chunkSize": PIECE_BYTES, "uploadDate": now()})

    async def read(self, file_id: UUID, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from an offset to the end, in parts of at most PIECE_BYTES."""
        first, skip = divmod(offset, PIECE_BYTES)
        where = {"files_id": file_id, "n": {"$gte": first}}
        async with self._pieces.find(where, ["data"]).sort("n", 1).batch_size(_PIECES_READ_AT_ONCE) as pieces:
            async for piece in pieces:
                if data := piece["data"][skip:]:
                    yield data
                skip = 0

    async def delete(self, file_id: UUID) -> bool:
        """Return whether there was anything."""
        found = await self._pieces.delete_in_batches({"files_id": file_id})
        return found + await self._files.delete({"_id": file_id}) > 0

    async def delete_all(self) -> bool:
        """Delete all files of the organization. Return whether there were any."""
        return await self._pieces.delete_in_batches({}) + await self._files.delete({}) > 0
