"""MongoDB: collections that add the tenant to every command.

All other code uses these collections. A filter or document that names org_id itself is refused, so that the tenant
cannot be overridden.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

import pymongo
from pymongo import AsyncMongoClient, UpdateOne, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    OperationFailure,
    ServerSelectionTimeoutError,
    WriteConcernError,
)

from .stores import StoreFull

_BATCH = 1000
_PING_SECONDS = 1.0
ANSWER_SECONDS = 20.0  # of one command; connections on which none comes are given up
_DUPLICATE_KEY, _OUT_OF_DISK_SPACE = 11000, 14031

Document = dict[str, Any]
Filter = Mapping[str, Any]
Projection = Sequence[str] | Mapping[str, bool]
Change = Mapping[str, Any] | Sequence[Mapping[str, Any]]  # operators, or a pipeline of them


class Tenant:
    """One collection as one organization sees it."""

    def __init__(self, collection: AsyncCollection[Document], org_id: UUID) -> None:
        self._collection = collection
        self._org = {"org_id": org_id}

    async def find_one(self, where: Filter, projection: Projection | None = None) -> Document | None:
        return await _find_one(self._collection, self.own(where), projection)

    async def find_latest(self, where: Filter, projection: Projection, limit: int) -> tuple[list[Document], bool]:
        """Return the documents with the highest ids, the highest first, and whether there may be more.

        Fewer than the limit if they are large.
        """
        return await _find_latest(self._collection, self.own(where), projection, limit)

    def find(self, where: Filter, projection: Projection | None = None) -> AsyncCursor[Document]:
        return self._collection.find(self.own(where), projection)

    async def count(self, where: Filter) -> int:
        return await self._collection.count_documents(self.own(where))

    async def insert(self, document: Document) -> None:
        """Insert a document. Raise DuplicateKeyError if one with its _id is there."""
        with _noticing_full():
            await self._collection.insert_one(self.own(document))

    async def save(self, document: Document) -> None:
        """Insert the document unless one with its _id exists. Idempotent."""
        content = self.own(document)
        key = {"_id": content.pop("_id"), "org_id": content.pop("org_id")}
        with _noticing_full():
            await self._collection.update_one(key, {"$setOnInsert": content}, upsert=True)

    async def update(self, where: Filter, change: Change) -> bool:
        """Change the one document that matches. Return False if none does."""
        _check_change(change)
        with _noticing_full():
            result = await self._collection.update_one(self.own(where), change)
        return result.matched_count == 1

    async def update_each(self, where: Filter, change: Change) -> int:
        """Change all documents that match. Return their number."""
        _check_change(change)
        with _noticing_full():
            return (await self._collection.update_many(self.own(where), change)).matched_count

    async def delete(self, where: Filter) -> int:
        """Delete all matching documents. Return their number."""
        with _noticing_full():
            return (await self._collection.delete_many(self.own(where))).deleted_count

    async def delete_in_batches(self, where: Filter) -> int:
        """Delete all matching documents in batches, so that no command takes long. Return their number."""
        total = 0
        while ids := [found["_id"] async for found in self.find(where, ["_id"]).limit(_BATCH)]:
            total += await self.delete({"_id": {"$in": ids}})
        return total

    def own(self, filter_or_document: Filter) -> Document:
        """Return it with the organization."""
        if "org_id" in filter_or_document:
            raise ValueError("org_id is set only by the tenant's collection")
        return {**filter_or_document, **self._org}


class Mongo:
    """The client. Acknowledged writes are on disk, on a majority of the replica set."""

    def __init__(self, uri: str, answer_seconds: float | None = None) -> None:
        """`answer_seconds`: after which a command fails. Without, it may take as long as an index of all documents."""
        self.client: AsyncMongoClient[Document] = AsyncMongoClient(
            uri,
            uuidRepresentation="standard",
            tz_aware=True,
            serverSelectionTimeoutMS=5000,
            connectTimeoutMS=5000,
            socketTimeoutMS=answer_seconds and 1000 * answer_seconds,
        )
        self.database = self.client.get_default_database("aiworkspace").with_options(
            write_concern=WriteConcern(w="majority", j=True)
        )
        self._collections: dict[str, AsyncCollection[Document]] = {}

    def tenant(self, collection: str, org_id: UUID) -> Tenant:
        return Tenant(self._collection(collection), org_id)

    async def find_among(
        self, collection: str, org_ids: Sequence[UUID], where: Filter, projection: Projection | None = None
    ) -> Document | None:
        """Return the document that matches in one of these organizations, to find an id before its tenant is known."""
        if "org_id" in where:
            raise ValueError("org_id is set only by find_among")
        own = {"$in": list(org_ids)} if len(org_ids) != 1 else org_ids[0]
        return await _find_one(self._collection(collection), {**where, "org_id": own}, projection)

    async def insert_all(self, collection: str, documents: Sequence[tuple[UUID, Document]]) -> set[int]:
        """Insert documents, each of an organization, in one round trip. Return the indexes of those whose key exists.

        Raise BulkWriteError if one of them cannot be stored; the others may be stored then.
        """
        own = [self.tenant(collection, org_id).own(document) for org_id, document in documents]
        try:
            with _noticing_full():
                await self._collection(collection).insert_many(own, ordered=False)
        except BulkWriteError as error:
            _check_durable(error)
            if any(each["code"] != _DUPLICATE_KEY for each in error.details["writeErrors"]):
                raise
            return {each["index"] for each in error.details["writeErrors"]}
        return set()

    async def update_all(self, collection: str, changes: Sequence[tuple[UUID, Filter, Change]]) -> bool:
        """Change documents, one of an organization for each filter, in one round trip. Return whether all were found.

        Raise BulkWriteError if one of them cannot be changed; the others may be changed then.
        """
        if len(changes) == 1:
            org_id, where, change = changes[0]
            return await self.tenant(collection, org_id).update(where, change)
        updates = list[UpdateOne]()
        for org_id, where, change in changes:
            _check_change(change)
            updates.append(UpdateOne(self.tenant(collection, org_id).own(where), change))
        try:
            with _noticing_full():
                result = await self._collection(collection).bulk_write(updates, ordered=False)
        except BulkWriteError as error:
            _check_durable(error)
            raise
        return result.matched_count == len(updates)

    def scan(self, collection: str, where: Filter) -> AsyncCursor[Document]:
        """Return documents of all tenants, for clean-up by the server itself. Never on behalf of a caller."""
        return self._collection(collection).find(where, ["org_id"])

    async def ping(self) -> None:
        """Ask the primary for nothing."""
        with pymongo.timeout(_PING_SECONDS):
            await self.client.admin.command("ping")

    @property
    def used(self) -> int:
        """How many connections are in use. The driver's public way to learn it are two events for each command."""
        return sum(server.pool.active_sockets for server in self.client._topology._servers.values())

    async def close(self) -> None:
        await self.client.close()

    def _collection(self, name: str) -> AsyncCollection[Document]:
        """Return the driver's object, made once: a run needs eleven, and each costs the driver 8 µs."""
        if name not in self._collections:
            self._collections[name] = self.database[name]
        return self._collections[name]


@contextmanager
def _noticing_full() -> Iterator[None]:
    """Raise StoreFull in place of the driver's error, which is the same for a write that is at fault itself."""
    try:
        yield
    except BulkWriteError as error:
        if any(each["code"] == _OUT_OF_DISK_SPACE for each in error.details["writeErrors"]):
            raise StoreFull from error
        raise
    except OperationFailure as error:
        if error.code == _OUT_OF_DISK_SPACE:
            raise StoreFull from error
        raise


def _check_change(change: Change) -> None:
    for stage in [change] if isinstance(change, Mapping) else change:
        if any("org_id" in fields for fields in stage.values()):
            raise ValueError("a document stays with its organization")


def _check_durable(error: BulkWriteError) -> None:
    if error.details["writeConcernErrors"]:
        raise WriteConcernError("not yet on a majority of the replica set") from None


async def _find_one(
    collection: AsyncCollection[Document], where: Filter, projection: Projection | None
) -> Document | None:
    try:
        found = (await _first_batch(collection, where, projection, limit=1, singleBatch=True))["firstBatch"]
    except ServerSelectionTimeoutError:
        raise
    except (AutoReconnect, OperationFailure):  # the driver repeats finds, but no commands
        return await collection.find_one(where, projection)
    return found[0] if found else None


async def _find_latest(
    collection: AsyncCollection[Document], where: Filter, projection: Projection, limit: int
) -> tuple[list[Document], bool]:
    try:
        # With a batch as large as the limit, the cursor would stay open.
        cursor = await _first_batch(collection, where, projection, sort={"_id": -1}, limit=limit, batchSize=limit + 1)
        found, cut = cursor["firstBatch"], bool(cursor["id"])
        if cut:  # a reply is at most 16 MiB
            await collection.database.command({"killCursors": collection.name, "cursors": [cursor["id"]]})
    except ServerSelectionTimeoutError:
        raise
    except (AutoReconnect, OperationFailure):
        found, cut = await collection.find(where, projection).sort("_id", -1).limit(limit).to_list(), False
    return found, cut or len(found) == limit


async def _first_batch(
    collection: AsyncCollection[Document], where: Filter, projection: Projection | None, **options: Any
) -> Document:
    """Return a cursor's first batch and id. As a command, which costs the driver a tenth less than a cursor does."""
    command: Document = {"find": collection.name, "filter": where, **options}
    if projection is not None:
        command["projection"] = projection if isinstance(projection, Mapping) else dict.fromkeys(projection, 1)
    if collection.read_concern.level:
        command["readConcern"] = collection.read_concern.document
    reply: Document = await collection.database.command(
        command, codec_options=collection.codec_options, read_preference=collection.read_preference
    )
    return cast(Document, reply["cursor"])
