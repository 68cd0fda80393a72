"""Indexes of conversations, messages, runs and their events: all of them lead with the organization."""

from typing import Any

from pymongo.asynchronous.database import AsyncDatabase


async def upgrade(database: AsyncDatabase[dict[str, Any]]) -> None:
    await database.conversations.create_index([("org_id", 1), ("workspace_id", 1), ("user_id", 1), ("_id", -1)])
    await database.messages.create_index([("org_id", 1), ("conversation_id", 1), ("_id", 1)])
    await database.runs.create_index([("org_id", 1), ("conversation_id", 1), ("_id", 1)])
    await database.run_events.create_index([("org_id", 1), ("run_id", 1), ("first", 1)], unique=True)
