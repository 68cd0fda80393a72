"""The bytes of documents: in MongoDB as GridFS keeps them, in pieces of 256 KiB, or in an object store.

The pieces also have org_id, and are written and read through the tenant's collections, which a driver's GridFS bucket
cannot do. Other tools that know GridFS can read them.

An upload always stores pieces, so that it can go on in another process. If there is an object store, the finished file
becomes one object there, under a key that is made of ids only. Order of writes, each of which can be repeated:

1. `documents.writes`: a write to the object store begins
2. the object
3. `documents.files`: the file is complete, and where it is
4. the pieces are deleted
5. PostgreSQL: the document, which has the file
6. `documents.writes`: the write has ended

A process that dies between 1 and 6 leaves the record of 1, by which `LostWrites` finds an object that nothing has.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import pymongo
from pymongo.errors import DuplicateKeyError, ExecutionTimeout

from ..kit.errors import Unavailable
from ..kit.ids import new_id
from ..kit.mongo import Mongo, Tenant
from ..kit.timestamps import now
from .objects import Objects, ObjectStores

PIECE_BYTES = 256 << 10
PIECE_SECONDS = 20.0  # the longest time in which one is stored
_PIECES_READ_AT_ONCE = 4
_WRITES = "documents.writes"


class PieceExists(Exception):
    """Another stream has stored this piece."""


class PiecesMissing(Exception):
    """Pieces were deleted: the upload was given up, or another stream has finished it."""


class Stored(NamedTuple):
    """What is stored of a file."""

    pieces: int
    size: int


class Files:
    """The files of all organizations."""

    def __init__(self, mongo: Mongo, stores: ObjectStores) -> None:
        self._mongo = mongo
        self._stores = stores

    def of(self, org_id: UUID) -> "Content":
        return Content(self._mongo, self._stores, org_id)

    async def list_writes(self, before: datetime, limit: int) -> Sequence[tuple[UUID, UUID]]:
        """Return organization and id of writes to object stores that began before a time and have not ended."""
        found = self._mongo.scan(_WRITES, {"begin_time": {"$lt": before}}).limit(limit)
        return [(write["org_id"], write["_id"]) async for write in found]


class Content:
    """The files of one organization. A file has no name: its id is that of the upload that brought it."""

    def __init__(self, mongo: Mongo, stores: ObjectStores, org_id: UUID) -> None:
        self._pieces: Tenant = mongo.tenant("documents.chunks", org_id)
        self._files: Tenant = mongo.tenant("documents.files", org_id)
        self._writes: Tenant = mongo.tenant(_WRITES, org_id)
        self._stores = stores
        self._prefix = f"orgs/{org_id}/"

    async def stored(self, file_id: UUID) -> Stored:
        last = await self._pieces.find({"files_id": file_id}, ["n", "data"]).sort("n", -1).limit(1).to_list()
        # After the pieces, because those of an object are deleted only when the file says where it is.
        file = await self._find_object(file_id)
        if file:
            return Stored(-(-file["length"] // PIECE_BYTES), file["length"])
        if not last:
            return Stored(0, 0)
        return Stored(last[0]["n"] + 1, last[0]["n"] * PIECE_BYTES + len(last[0]["data"]))

    async def append(self, file_id: UUID, number: int, data: bytes) -> None:
        """Store a piece, the first of which has number 0. All but the last have PIECE_BYTES. Raises PieceExists."""
        try:
            with pymongo.timeout(PIECE_SECONDS):
                await self._pieces.insert({"files_id": file_id, "n": number, "data": data})
        except DuplicateKeyError:
            raise PieceExists from None
        except ExecutionTimeout:  # of MongoDB; the driver's own timeouts count as an unavailable database already
            raise Unavailable from None

    async def complete(self, file_id: UUID, size: int) -> UUID | None:
        """Note that all pieces are stored, and move them to the object store if there is one. Idempotent.

        Return the id of a write, which the caller ends when a document has the file. Raises PiecesMissing.
        """
        file = await self._files.find_one({"_id": file_id}, ["store"])
        objects, write_id = self._stores.current, None
        if file is None:
            file = {"_id": file_id, "length": size, "chunkSize": PIECE_BYTES, "uploadDate": now()}
            if objects:
                write_id = await self._write(objects, file_id, size)
                file["store"] = objects.url
            await self._files.save(file)
        if "store" in file:
            await self._pieces.delete_in_batches({"files_id": file_id})
        return write_id

    async def _write(self, objects: Objects, file_id: UUID, size: int) -> UUID:
        write_id = new_id()
        begun = {"_id": write_id, "file_id": file_id, "store": objects.url, "begin_time": now()}
        await self._writes.insert(begun)
        try:
            async with aclosing(self._read_all_pieces(file_id, size)) as parts:
                await objects.write(self._key(file_id), parts)
        except PiecesMissing:
            if await self._find_object(file_id) is None:
                raise
        return write_id

    async def _read_all_pieces(self, file_id: UUID, size: int) -> AsyncGenerator[bytes, None]:
        """Raises PiecesMissing, and not after the last byte, so that an incomplete object is never stored."""
        async with aclosing(self._read_pieces(file_id, 0)) as parts:
            async for part in parts:
                size -= len(part)
                yield part
        if size:
            raise PiecesMissing

    async def end_write(self, write_id: UUID) -> None:
        await self._writes.delete({"_id": write_id})

    async def find_write(self, write_id: UUID) -> UUID | None:
        """Return the file that is written."""
        found = await self._writes.find_one({"_id": write_id}, ["file_id"])
        return found["file_id"] if found else None

    async def read(self, file_id: UUID, offset: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the bytes in [offset, end), in parts of at most 2 MiB. Without `end`, up to the last one."""
        file = await self._find_object(file_id)
        if file is None:
            async with aclosing(self._read_pieces(file_id, offset)) as parts:
                async for part in parts:
                    if end is not None and offset + len(part) >= end:
                        yield part[: end - offset]
                        return
                    yield part
                    offset += len(part)
            file = await self._find_object(file_id)  # which it may have become meanwhile
        if file:
            last = file["length"] if end is None else min(end, file["length"])
            async with aclosing(self._stores.at(file["store"]).read(self._key(file_id), offset, last)) as parts:
                async for part in parts:
                    yield part

    async def _read_pieces(self, file_id: UUID, offset: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from an offset to the end, or to the first piece that is missing."""
        number, skip = divmod(offset, PIECE_BYTES)
        where = {"files_id": file_id, "n": {"$gte": number}}
        async with self._pieces.find(where, ["n", "data"]).sort("n", 1).batch_size(_PIECES_READ_AT_ONCE) as pieces:
            async for piece in pieces:
                if piece["n"] != number:
                    return
                if data := piece["data"][skip:]:
                    yield data
                number, skip = number + 1, 0

    async def delete(self, file_id: UUID) -> bool:
        """Return whether there was anything."""
        found = await self._pieces.delete_in_batches({"files_id": file_id})
        for url in await self._stores_with(file_id):
            await self._stores.at(url).delete(self._key(file_id))
        return found + await self._files.delete({"_id": file_id}) > 0

    async def _stores_with(self, file_id: UUID) -> set[str]:
        """Return where objects of a file may be."""
        file = await self._find_object(file_id)
        writes = await self._writes.find({"file_id": file_id}, ["store"]).to_list()
        return {each["store"] for each in [*writes, *([file] if file else [])]}

    async def delete_all(self) -> bool:
        """Delete all files of the organization. Return whether there were any."""
        found = await self._pieces.delete_in_batches({}) > 0
        urls = {self._stores.current.url} if self._stores.current else set[str]()
        for files in (self._files, self._writes):
            urls |= {file["store"] async for file in files.find({"store": {"$exists": True}}, ["store"])}
        for url in urls:
            found = await self._stores.at(url).delete_under(self._prefix) or found
        return await self._files.delete({}) > 0 or found

    async def _find_object(self, file_id: UUID) -> dict[str, Any] | None:
        """Return the length and the store of a file that is in an object store."""
        return await self._files.find_one({"_id": file_id, "store": {"$exists": True}}, ["length", "store"])

    def _key(self, file_id: UUID) -> str:
        return f"{self._prefix}{file_id}"
