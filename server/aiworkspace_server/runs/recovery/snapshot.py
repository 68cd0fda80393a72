"""Rebuilds the state of an orphaned run from its document, its events and its ledger entries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import cast
from uuid import UUID

from ...conversations.history import History
from ...conversations.store import ConversationStore
from ...kit.timestamps import now
from ...llm.base import ModelRequest, TokenUsage
from ...llm.tokens import estimate_input, estimate_tokens
from ...usage import ledger
from ...usage.ledger import Spender
from ...usage.models import LedgerEntry
from ...workspaces import store as workspaces
from .. import events
from ..attempts.attempt import new_record, settle
from ..attempts.failures import INTERRUPTED
from ..deps import RunDeps
from ..models import AttemptRecord, Cost, Run, RunState, Settlement, Usage
from ..plan import parameters_in
from ..store import RunStore, StoredEvents
from ..streams.local import LocalRun


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """A run as its server left it. The attempts that were in progress count as interrupted."""

    run: LocalRun
    request: ModelRequest  # what the model was asked, as far as it is known
    spender: Spender | None  # None: the run is older than reservations of attempts
    settled: list[Settlement]
    unsettled: list[Settlement]
    model: str  # that spoke last or, if none did, of the first attempt that had not failed
    answered: bool  # a model had come to its end, so that there is nothing to resume


async def take_snapshot(deps: RunDeps, org_id: UUID, document: Run, *, via_bus: bool) -> RunSnapshot:
    """Return the snapshot of a run. Its events and attempts get the ends of attempts that were in progress."""
    async with deps.db.write(org_id) as tx:
        reserved = await ledger.list_reserved(tx, document["_id"])
        settled = await ledger.list_settled(tx, document["_id"])
        workspace = await workspaces.find_workspace(tx, document["workspace_id"])
    history = History(ConversationStore(deps.mongo, org_id), document["conversation_id"], until=document["_id"])
    await history.load()
    prompt, plan = workspace.system_prompt if workspace else "", document["plan"]
    request = ModelRequest(document["model"], prompt, history.turns, plan["max_output_tokens"], parameters_in(plan))
    batches = await RunStore(deps.mongo, org_id).list_batches(document["_id"])
    stored = StoredEvents(document, batches).after(0)
    run = LocalRun(org_id, document, deps.load, deps.lease.holds, stored, via_bus=via_bus)
    said = _said_tokens(stored)
    records = {record["number"]: record for record in document["attempts"]}
    unsettled = []
    for entry in reserved:
        begun = new_record(  # in case it was reserved and not stored with the run
            entry.attempt, entry.model, request, estimate_input(request), entry.create_time, own_key=entry.own_key
        )
        record = records.setdefault(entry.attempt, begun)
        if record["state"] == RunState.RUNNING:
            _interrupt(record, entry, said.get(entry.attempt, 0))
            run.emit(attempt_failed={"attempt": entry.attempt, "model": entry.model, "failure": INTERRUPTED})
        unsettled.append(_settlement_of(record))
    document["attempts"] = [records[number] for number in sorted(records)]
    entries = sorted([*settled, *reserved], key=lambda entry: entry.attempt)
    return RunSnapshot(
        run,
        request,
        _spender(entries[-1]) if entries else None,
        [_settlement_in(entry) for entry in settled],
        unsettled,
        run.model if said or not entries else (*reserved, entries[-1])[0].model,
        answered=any(record["state"] == RunState.COMPLETED for record in records.values()),
    )


def _said_tokens(stored: Sequence[bytes]) -> Mapping[int, int]:
    """Return the output tokens of each attempt, as counted on arrival. Events of older servers have no count."""
    said: dict[int, int] = {}
    number = 1
    for event in map(events.decode, stored):
        number = events.speaking_attempt(event, number)
        if event.HasField("content_delta"):
            delta = event.content_delta
            said[number] = said.get(number, 0) + (delta.token_count or estimate_tokens(delta.text))
    return said


def _interrupt(record: AttemptRecord, entry: LedgerEntry, said_tokens: int) -> None:
    """End an attempt: the provider is taken to have read the whole input, and to have said what is stored."""
    output = min(said_tokens, record["parameters"]["max_output_tokens"])
    usage = TokenUsage(record["counted_input_tokens"], 0, 0, output, 0, estimated=True)
    ended = settle(entry.attempt, entry.model, usage, entry.create_time)
    record["state"], record["failure"], record["end_time"] = RunState.INTERRUPTED, INTERRUPTED, now()
    record["usage"], record["cost"] = ended["usage"], ended["cost"]


def _settlement_of(record: AttemptRecord) -> Settlement:
    cost = record["cost"] or Cost(nanos=0, currency="USD", version="none")
    return Settlement(number=record["number"], usage=record["usage"], cost=cost)


def _settlement_in(entry: LedgerEntry) -> Settlement:
    usage = cast(Usage, {field.name: getattr(entry, field.name) for field in fields(TokenUsage)})
    cost = Cost(nanos=entry.cost_nanos, currency=entry.currency, version=entry.price_version)
    return Settlement(number=entry.attempt, usage=usage, cost=cost)


def _spender(entry: LedgerEntry) -> Spender:
    return Spender(
        entry.org_id,
        entry.workspace_id,
        entry.conversation_id,
        entry.run_id,
        entry.run_time,
        entry.user_id,
        entry.key_id,
        entry.request_id,
    )
