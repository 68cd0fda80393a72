"""The text of documents, in pieces."""

from typing import Any

from pymongo.asynchronous.database import AsyncDatabase


async def upgrade(database: AsyncDatabase[dict[str, Any]]) -> None:
    await database["document_texts"].create_index([("org_id", 1), ("version_id", 1), ("n", 1)])
