"""Ending a run: what is stored in which order, so that a crash in between loses nothing.

First the run's document gets the end: state, answer, cost and the last events, the terminal one included. The first
server to store that ends the run; all others leave it alone. Everything after it can be repeated from what is stored
then, by whichever server finds it missing: the conversation, the ledger, and last the end of the claim.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from functools import partial
from itertools import islice
from typing import cast
from uuid import UUID

from ..conversations.store import EndedRun
from ..kit.ids import new_id
from ..kit.stores import retry_until_available
from ..kit.timestamps import now
from ..llm.base import TokenUsage
from . import events
from .attempts.attempt import settle
from .deps import RunDeps
from .models import ClaimLost, Cost, EventBatch, Run, Settlement, Usage
from .store import RunStore, StoredEvents
from .streams.local import LocalRun
from .transactions import OpenReservation, UnsettledRun

_BATCH_BYTES = 4 * 2**20
_WITH_END_BYTES = 2**20  # of events that are stored with the end of a run; more go into batches first
_EVENT_BYTES = 16  # overhead of one event


async def finalize(
    deps: RunDeps, run: LocalRun, settled: Sequence[Settlement], unsettled: Sequence[Settlement]
) -> None:
    """End a run that has its final state. Raise ClaimLost if another server has ended it or has taken it over."""
    _sum_up(run.document, settled, unsettled)
    _take_answer(run)
    if "sources" in run.document:
        run.document["sources"] = []
    if _size(islice(run.events, run.stored_count, None)) > _WITH_END_BYTES:
        await store_events(deps, run)
    terminal = events.encode_terminal(run.document, run.next_sequence)
    run.document["last_events"] = [*run.events[run.stored_count :], terminal]
    run.document["event_count"] = run.next_sequence
    if not await retry_until_available(lambda: deps.group_commit.ends.do((run.org_id, run.document))):
        raise ClaimLost
    await conclude(deps, run.org_id, run.document)
    run.conclude(terminal)


async def complete_end(deps: RunDeps, org_id: UUID, run: Run) -> None:
    """Store the answer and the terminal event of an ended run if they are missing.

    Earlier releases stored the state of an ended run before these. Their events are all in batches.
    """
    if run["event_count"]:
        return
    store = RunStore(deps.mongo, org_id)
    stored = StoredEvents(run, await store.list_batches(run["_id"]))
    if stored.terminal:
        return
    local = LocalRun(org_id, run, deps.load, deps.lease.holds, stored.after(0))
    _take_answer(local)
    run["last_events"] = [events.encode_terminal(run, local.next_sequence)]
    run["event_count"] = local.next_sequence
    await retry_until_available(lambda: store.complete_end(run))


def _take_answer(run: LocalRun) -> None:
    """Put what was said into the run's document."""
    run.document["answer"], run.document["answer_model"] = run.contents, run.model
    if run.citations:
        run.document["citations"] = run.citations


async def conclude(deps: RunDeps, org_id: UUID, run: Run) -> None:
    """Do what is left to do for a run whose end is stored. Safe to repeat."""
    size = sum(len(content["text"].encode()) for content in run["answer"])
    ended = EndedRun(org_id, run["conversation_id"], run["_id"], size)
    await retry_until_available(lambda: deps.group_commit.conversations.do(ended))
    await retry_until_available(lambda: _settle(deps, org_id, run))


async def store_events(deps: RunDeps, run: LocalRun) -> None:
    """Store the events since the last time. Raise ClaimLost if another server has stored events in their place."""
    while events_ := _first_unstored(run):
        batch = EventBatch(_id=new_id(), run_id=run.run_id, first=run.stored_count + 1, events=events_)
        if not await retry_until_available(partial(deps.group_commit.events.do, (run.org_id, batch))):
            raise ClaimLost
        run.stored_count += len(events_)


def _first_unstored(run: LocalRun) -> list[bytes]:
    """Return the next events to store, as many as fit well into a document."""
    size, batch = 0, list[bytes]()
    for event in islice(run.events, run.stored_count, None):
        size += len(event) + _EVENT_BYTES
        if batch and size > _BATCH_BYTES:
            break
        batch.append(event)
    return batch


def _size(some: Iterable[bytes]) -> int:
    return sum(len(event) + _EVENT_BYTES for event in some)


async def _settle(deps: RunDeps, org_id: UUID, run: Run) -> None:
    """Settle the attempts of the run and close its claim.

    Once the claim is closed nobody reserves for the run any more. A reservation that is open before was made by a
    server that resumed the run and found it ended by the one before.
    """
    settlements = run["unsettled"]
    while others := await deps.group_commit.ledger.do(UnsettledRun(org_id, run["_id"], settlements)):
        settlements = [_settlement_of_other(run, each) for each in others]


def _settlement_of_other(run: Run, entry: OpenReservation) -> Settlement:
    """Return what another server's attempt is taken to have used: its input, marked as an estimate."""
    records = {record["number"]: record for record in run["attempts"]}
    record = records.get(entry.attempt)
    usage = TokenUsage(record["counted_input_tokens"] if record else 0, 0, 0, 0, 0, estimated=True)
    return settle(entry.attempt, entry.model, usage, entry.create_time)


def _sum_up(run: Run, settled: Sequence[Settlement], unsettled: Sequence[Settlement]) -> None:
    settlements = [*settled, *unsettled]
    usages = [TokenUsage(**each["usage"]) for each in settlements if each["usage"]]
    costs = [each["cost"] for each in settlements if each["usage"]] or [Cost(nanos=0, currency="USD", version="none")]
    last = costs[-1]
    run["usage"] = cast(Usage, asdict(_total(usages)))
    run["cost"] = Cost(nanos=sum(c["nanos"] for c in costs), currency=last["currency"], version=last["version"])
    run["attempt_count"] = max((each["number"] for each in settlements), default=0)
    run["unsettled"] = list(unsettled)
    run["end_id"] = new_id()
    run["end_time"] = now()


def _total(usages: Sequence[TokenUsage]) -> TokenUsage:
    sums = {field.name: sum(getattr(usage, field.name) for usage in usages) for field in fields(TokenUsage)}
    marks = {name: any(getattr(usage, name) for usage in usages) for name in ("estimated", "above_limit")}
    return TokenUsage(**sums | marks)
