"""MongoDB: collections that add the tenant to every command.

All other code uses these collections. A filter or document that names org_id itself is refused, so that the tenant
cannot be overridden.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from pymongo import AsyncMongoClient, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.errors import BulkWriteError, WriteConcernError

_BATCH = 1000
_DUPLICATE_KEY = 11000

Document = dict[str, Any]
Filter = Mapping[str, Any]
Projection = Sequence[str] | Mapping[str, bool]


class Tenant:
    """One collection as one organization sees it."""

    def __init__(self, collection: AsyncCollection[Document], org_id: UUID) -> None:
        self._collection = collection
        self._org = {"org_id": org_id}

    async def find_one(self, where: Filter, projection: Projection | None = None) -> Document | None:
        return await self._collection.find_one(self.own(where), projection)

    def find(self, where: Filter, projection: Projection | None = None) -> AsyncCursor[Document]:
        return self._collection.find(self.own(where), projection)

    async def insert(self, document: Document) -> None:
        """Insert a document. Raise DuplicateKeyError if one with its _id is there."""
        await self._collection.insert_one(self.own(document))

    async def save(self, document: Document) -> None:
        """Insert the document unless one with its _id exists. Idempotent."""
        content = self.own(document)
        key = {"_id": content.pop("_id"), "org_id": content.pop("org_id")}
        await self._collection.update_one(key, {"$setOnInsert": content}, upsert=True)

    async def update(self, where: Filter, change: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> bool:
        """Change the one document that matches, by operators or a pipeline of them. Return False if none does."""
        for stage in [change] if isinstance(change, Mapping) else change:
            if any("org_id" in fields for fields in stage.values()):
                raise ValueError("a document stays with its organization")
        result = await self._collection.update_one(self.own(where), change)
        return result.matched_count == 1

    async def delete(self, where: Filter) -> int:
        """Delete all matching documents. Return their number."""
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

    def __init__(self, uri: str) -> None:
        self.client: AsyncMongoClient[Document] = AsyncMongoClient(
            uri, uuidRepresentation="standard", tz_aware=True, serverSelectionTimeoutMS=5000, connectTimeoutMS=5000
        )
        self.database = self.client.get_default_database("aiworkspace").with_options(
            write_concern=WriteConcern(w="majority", j=True)
        )

    def tenant(self, collection: str, org_id: UUID) -> Tenant:
        return Tenant(self.database[collection], org_id)

    async def find_among(
        self, collection: str, org_ids: Sequence[UUID], where: Filter, projection: Projection | None = None
    ) -> Document | None:
        """Return the document that matches in one of these organizations, to find an id before its tenant is known."""
        if "org_id" in where:
            raise ValueError("org_id is set only by find_among")
        own = {"$in": list(org_ids)} if len(org_ids) != 1 else org_ids[0]
        return await self.database[collection].find_one({**where, "org_id": own}, projection)

    async def insert_all(self, collection: str, documents: Sequence[tuple[UUID, Document]]) -> set[int]:
        """Insert documents, each of an organization, in one round trip. Return the indexes of those whose key exists.

        Raise BulkWriteError if one of them cannot be stored; the others may be stored then.
        """
        own = [self.tenant(collection, org_id).own(document) for org_id, document in documents]
        try:
            await self.database[collection].insert_many(own, ordered=False)
        except BulkWriteError as error:
            if error.details["writeConcernErrors"]:
                raise WriteConcernError("not yet on a majority of the replica set") from None
            if any(each["code"] != _DUPLICATE_KEY for each in error.details["writeErrors"]):
                raise
            return {each["index"] for each in error.details["writeErrors"]}
        return set()

    def scan(self, collection: str, where: Filter) -> AsyncCursor[Document]:
        """Return documents of all tenants, for clean-up by the server itself. Never on behalf of a caller."""
        return self.database[collection].find(where, ["org_id"])

    async def close(self) -> None:
        await self.client.close()
