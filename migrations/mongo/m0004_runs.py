"""A run is one document: its messages and attempts move into it.

Restartable: a run that has its question is done. The collections that they come from are dropped last.
"""

from collections import defaultdict
from typing import Any
from uuid import UUID

import structlog
from pymongo import UpdateOne
from pymongo.asynchronous.database import AsyncDatabase

_PROGRESS = 50  # batches

Document = dict[str, Any]
log = structlog.get_logger("migrate")


async def upgrade(database: AsyncDatabase[Document], runs_at_once: int = 200) -> None:
    batches, wanted = 0, {"question": {"$exists": False}}
    fields = ["org_id", "conversation_id", "user_message_id", "message_id", "endings"]
    while runs := await database.runs.find(wanted, fields).limit(runs_at_once).to_list():
        messages, attempts = await _messages_of(database, runs), await _attempts_of(database, runs)
        await database.runs.bulk_write([_update(run, messages, attempts[run["_id"]]) for run in runs], ordered=False)
        batches += 1
        if batches % _PROGRESS == 0:
            log.info("runs_migrated", count=batches * runs_at_once)
    await database.drop_collection("messages")
    await database.drop_collection("attempts")


async def _messages_of(database: AsyncDatabase[Document], runs: list[Document]) -> dict[UUID, Document]:
    where = {
        "org_id": {"$in": list({run["org_id"] for run in runs})},
        "conversation_id": {"$in": list({run["conversation_id"] for run in runs})},
        "_id": {"$in": [run[side] for run in runs for side in ("user_message_id", "message_id")]},
    }
    return {message["_id"]: message async for message in database.messages.find(where)}


async def _attempts_of(database: AsyncDatabase[Document], runs: list[Document]) -> dict[UUID, list[Document]]:
    where = {
        "org_id": {"$in": list({run["org_id"] for run in runs})},
        "run_id": {"$in": [run["_id"] for run in runs]},
    }
    found = defaultdict[UUID, list[Document]](list)
    async for attempt in database.attempts.find(where).sort("number", 1):
        found[attempt["run_id"]].append(
            {name: value for name, value in attempt.items() if name not in {"_id", "org_id", "run_id"}}
        )
    return found


def _update(run: Document, messages: dict[UUID, Document], attempts: list[Document]) -> UpdateOne:
    question, answer = messages.get(run["user_message_id"]), messages.get(run["message_id"])
    new = {
        "question": question["contents"] if question else [],
        "answer": answer["contents"] if answer else [],
        "answer_model": answer["model"] if answer else "",
        "attempts": attempts,
        "unsettled": run["endings"],
        "takeovers": 0,
        "first_events": [],  # all events of these runs are in batches
        "last_events": [],
        "event_count": 0,
    }
    return UpdateOne({"_id": run["_id"], "org_id": run["org_id"]}, {"$set": new, "$unset": {"endings": ""}})
