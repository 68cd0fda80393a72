"""The AI log: the attempts of a run. Runs from before had one attempt each, and cannot be gone on with."""

from typing import Any

from pymongo.asynchronous.database import AsyncDatabase


async def upgrade(database: AsyncDatabase[dict[str, Any]]) -> None:
    await database.attempts.create_index([("org_id", 1), ("run_id", 1), ("number", 1)], unique=True)
    plan = {
        "models": [],
        "temperature": None,
        "stop": [],
        "seed": None,
        "reasoning_effort": None,
        "max_output_tokens": 0,
        "continue_broken_answers": False,
        "resume_interrupted_runs": False,
        "hedge_after_seconds": 0.0,
    }
    new = {"plan": plan, "attempt_count": 1, "endings": [], "end_id": None}
    await database.runs.update_many({"plan": {"$exists": False}}, {"$set": new})
