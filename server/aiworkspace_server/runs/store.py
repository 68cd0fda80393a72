"""Queries on runs and their events, as one organization sees them."""

from collections.abc import Collection, Iterable, Sequence
from typing import cast
from uuid import UUID

from ..conversations.store import find_conversation_among
from ..kit.mongo import Change, Filter, Mongo
from .events import is_terminal
from .models import EventBatch, Run, RunState

_WITHOUT_EVENTS = {"first_events": False, "last_events": False, "sources": False}
_ANSWERED = {"answer", "answer_model", "citations", "last_events", "event_count"}
_ENDED = _ANSWERED | {
    *("sources", "omissions", "dropped_citation_count"),
    *("state", "finish_reason", "failure", "usage", "cost", "attempt_count", "attempts", "unsettled"),
    *("end_time", "end_id"),
}
_EVENTS = ["state", "takeovers", "first_events", "last_events", "event_count"]


async def find_run_among(mongo: Mongo, org_ids: Sequence[UUID], user_id: UUID, run_id: UUID) -> Run | None:
    """Return the person's run without its events, unless its conversation was deleted."""
    found = await mongo.find_among("runs", org_ids, {"_id": run_id, "user_id": user_id}, _WITHOUT_EVENTS)
    if found is None:
        return None
    conversation = await find_conversation_among(mongo, [found["org_id"]], user_id, found["conversation_id"])
    return cast(Run, found) if conversation else None


async def save_events(mongo: Mongo, batches: Sequence[tuple[UUID, EventBatch]]) -> list[bool]:
    """Store batches of events, each of an organization. Return for each whether it is stored.

    If it is not, other events have their place.
    """
    refused = await mongo.insert_all("run_events", [(org_id, dict(batch)) for org_id, batch in batches])
    return [
        index not in refused or await RunStore(mongo, org_id).has_batch(batch["_id"])
        for index, (org_id, batch) in enumerate(batches)
    ]


async def finish(mongo: Mongo, runs: Sequence[tuple[UUID, Run]]) -> list[bool]:
    """Store how runs ended, each of an organization. Return for each whether this end is stored.

    If it is not, another server has ended the run or has taken it over.
    """
    if await mongo.update_all("runs", [_end_of(org_id, run) for org_id, run in runs]):
        return [True] * len(runs)
    return [await RunStore(mongo, org_id).has_ended(run["_id"], run["end_id"]) for org_id, run in runs]


def _end_of(org_id: UUID, run: Run) -> tuple[UUID, Filter, Change]:
    values = {name: value for name, value in run.items() if name in _ENDED}
    own = {"_id": run["_id"], "state": RunState.RUNNING, "takeovers": run["takeovers"]}
    return org_id, own, {"$set": values}


class StoredEvents:
    """The events of a run that are stored, in order."""

    def __init__(self, run: Run, batches: Iterable[EventBatch]) -> None:
        self.ended = run["state"] != RunState.RUNNING
        self._parts = [(1, run["first_events"])]
        self._parts += [(batch["first"], batch["events"]) for batch in batches]
        self._parts.append((run["event_count"] - len(run["last_events"]) + 1, run["last_events"]))

    def after(self, sequence: int) -> list[bytes]:
        """Return the events that follow this one."""
        return [event for first, events in self._parts for event in events[max(0, sequence + 1 - first) :]]

    @property
    def terminal(self) -> bytes | None:
        """The terminal event; None if the run has not ended."""
        last = next((events[-1] for _, events in reversed(self._parts) if events), None)
        return last if last and self.ended and is_terminal(last) else None


class RunStore:
    """The runs of one organization."""

    def __init__(self, mongo: Mongo, org_id: UUID) -> None:
        self._runs = mongo.tenant("runs", org_id)
        self._batches = mongo.tenant("run_events", org_id)

    async def insert(self, run: Run) -> None:
        await self._runs.insert(dict(run))

    async def find(self, run_id: UUID) -> Run | None:
        """Return a run without its events."""
        return cast(Run | None, await self._runs.find_one({"_id": run_id}, _WITHOUT_EVENTS))

    async def exists(self, run_id: UUID) -> bool:
        return await self._runs.find_one({"_id": run_id}, ["_id"]) is not None

    async def take_over(self, run_id: UUID) -> Run | None:
        """Return a run that is to be ended or resumed, after which the server that had it cannot end it any more."""
        running = {"_id": run_id, "state": RunState.RUNNING}
        await self._runs.update(running, {"$inc": {"takeovers": 1}})
        return cast(Run | None, await self._runs.find_one({"_id": run_id}))

    async def has_ended(self, run_id: UUID, end_id: UUID | None) -> bool:
        """Return whether this end of the run is stored."""
        return await self._runs.find_one({"_id": run_id, "end_id": end_id}, ["_id"]) is not None

    async def complete_end(self, run: Run) -> None:
        """Store the answer and the last events of a run whose end was stored without them."""
        values = {name: value for name, value in run.items() if name in _ANSWERED}
        await self._runs.update({"_id": run["_id"], "event_count": 0}, {"$set": values})

    async def save_attempts(self, run: Run) -> None:
        """Store the attempts so far, unless another server has taken the run over."""
        own = {"_id": run["_id"], "state": RunState.RUNNING, "takeovers": run["takeovers"]}
        await self._runs.update(own, {"$set": {"attempts": run["attempts"]}})

    async def forget_attempts(self, run_ids: Collection[UUID]) -> int:
        """Delete the attempts of runs that have ended. Return how many had some."""
        ended = {"_id": {"$in": list(run_ids)}, "end_time": {"$ne": None}, "attempts.0": {"$exists": True}}
        return await self._runs.update_each(ended, {"$set": {"attempts": []}})

    async def save_sources(self, run: Run) -> bool:
        """Store the sources with the attempts so far. Return False if another server has the run."""
        own = {"_id": run["_id"], "state": RunState.RUNNING, "takeovers": run["takeovers"]}
        names = ("sources", "omissions", "attempts")
        return await self._runs.update(own, {"$set": {name: run[name] for name in names}})  # type: ignore[literal-required]

    async def has_batch(self, batch_id: UUID) -> bool:
        return await self._batches.find_one({"_id": batch_id}, ["_id"]) is not None

    async def find_events(self, run_id: UUID, after: int = 0) -> StoredEvents | None:
        """Return the stored events of a run, all or at least those that follow one; None if there is no run."""
        run = cast(Run | None, await self._runs.find_one({"_id": run_id}, _EVENTS))
        if run is None:
            return None
        with_run = len(run["first_events"]) + len(run["last_events"])  # 0 in runs of earlier releases
        whole = with_run > 0 and with_run == run["event_count"]
        return StoredEvents(run, [] if whole else await self.list_batches(run_id, after))

    async def list_batches(self, run_id: UUID, after: int = 0) -> list[EventBatch]:
        """List batches of events in order: all from the one with event `after` + 1 on."""
        later = await self._batches.find({"run_id": run_id, "first": {"$gt": after}}).sort("first", 1).to_list()
        if after and not (later and later[0]["first"] == after + 1):  # else it may begin in the middle of a batch
            before = self._batches.find({"run_id": run_id, "first": {"$lte": after}}).sort("first", -1).limit(1)
            later = [*await before.to_list(), *later]
        return cast(list[EventBatch], later)

    async def delete(self, run_ids: Collection[UUID]) -> int:
        """Delete runs with their events. Return how many documents there were."""
        ids = list(run_ids)
        return await self._batches.delete({"run_id": {"$in": ids}}) + await self._runs.delete({"_id": {"$in": ids}})

    async def delete_of_conversations(self, conversation_ids: Collection[UUID]) -> int:
        """Delete what was said in these conversations. Return how many documents there were."""
        inside = {"conversation_id": {"$in": list(conversation_ids)}}
        return await self.delete([run["_id"] async for run in self._runs.find(inside, ["_id"])])

    async def delete_all(self) -> int:
        return await self._batches.delete_in_batches({}) + await self._runs.delete_in_batches({})
