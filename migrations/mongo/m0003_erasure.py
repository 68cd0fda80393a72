"""Indexes by which conversations are found to erase them: those of a person, and those that were deleted."""

from typing import Any

from pymongo.asynchronous.database import AsyncDatabase


async def upgrade(database: AsyncDatabase[dict[str, Any]]) -> None:
    await database.conversations.create_index([("user_id", 1)])
    deleted = {"delete_time": {"$type": "date"}}
    await database.conversations.create_index(
        [("purge_time", 1), ("delete_time", 1)], partialFilterExpression=deleted, name="deleted"
    )
    # Earlier releases noted a purge that nothing looked after: these are looked at once more.
    await database.conversations.update_many(deleted, {"$set": {"purge_time": None, "model": ""}})
