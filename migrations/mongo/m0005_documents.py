"""The bytes of documents, in the collections of GridFS."""

from typing import Any

from pymongo.asynchronous.database import AsyncDatabase


async def upgrade(database: AsyncDatabase[dict[str, Any]]) -> None:
    await database["documents.chunks"].create_index([("files_id", 1), ("n", 1)], unique=True)
    for collection in ("documents.chunks", "documents.files"):
        await database[collection].create_index([("org_id", 1)])
