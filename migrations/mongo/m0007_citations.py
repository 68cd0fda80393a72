"""Runs by the documents that their answers cite, and by those whose passages a run in progress was given."""

from typing import Any

from pymongo.asynchronous.database import AsyncDatabase


async def upgrade(database: AsyncDatabase[dict[str, Any]]) -> None:
    for field in ("citations.document_id", "sources.document_id"):
        await database.runs.create_index(
            [("org_id", 1), (field, 1)], partialFilterExpression={field: {"$exists": True}}
        )
