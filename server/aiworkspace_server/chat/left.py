"""What is known of a run whose server is gone: from its events, the AI log and the ledger."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import cast
from uuid import UUID

from ..kit.timestamps import now
from ..llm.base import ModelRequest, TokenUsage
from ..llm.tokens import estimate_input, estimate_tokens
from ..usage import ledger
from ..usage.ledger import Spender
from ..usage.models import LedgerEntry
from ..workspaces import store as workspaces
from . import events
from .ailog import attempt_id
from .asking import ending
from .context import History
from .engine import Engine
from .failures import INTERRUPTED
from .live import LiveRun
from .models import Attempt, AttemptParameters, Cost, Ending, Run, Usage
from .pace import Pace
from .store import ChatStore

_MOST_ATTEMPTS = 1000


@dataclass(frozen=True, slots=True)
class Left:
    """A run as it was left. The attempts that were in progress have been brought to their end in it."""

    live: LiveRun
    request: ModelRequest  # what the model was asked, as far as it is known
    spender: Spender | None  # none: the run is from before there were reservations of attempts
    settled: list[Ending]
    unsettled: list[Ending]
    model: str  # that spoke last or, when none did, of the first attempt that had not failed
    answered: bool  # whether a model had come to its end, so that there is nothing to go on with


async def look_at(engine: Engine, org_id: UUID, run: Run, pace: Pace) -> Left:
    """Takes the run over. Notes in the AI log, and in the events of the run, how attempts in progress ended."""
    store = ChatStore(engine.mongo, org_id)
    async with engine.db.write(org_id) as tx:
        reserved = await ledger.list_reserved(tx, run["_id"])
        settled = await ledger.list_settled(tx, run["_id"])
        workspace = await workspaces.find_workspace(tx, run["workspace_id"])
    history = History(store, run["conversation_id"], run["message_id"])
    await history.load()
    prompt, plan = workspace.system_prompt if workspace else "", run["plan"]
    request = ModelRequest(run["model"], prompt, history.turns, plan["max_output_tokens"])
    live = LiveRun.restore(org_id, run, pace, await store.events_after(run["_id"], 0))
    logged = {each["number"]: each for each in await store.list_attempts(run["_id"], 0, _MOST_ATTEMPTS)}
    said = _said_tokens(live.events)
    unsettled = []
    for entry in reserved:
        attempt = logged.get(entry.attempt) or _attempt(entry, run, request)
        if attempt["state"] == "running":
            _end(attempt, entry, said.get(entry.attempt, 0))
            await store.end_attempt(attempt)
            live.emit(attempt_failed={"attempt": entry.attempt, "model": entry.model, "failure": INTERRUPTED})
        unsettled.append(_ending(attempt))
    entries = sorted([*settled, *reserved], key=lambda entry: entry.attempt)
    return Left(
        live,
        request,
        _spender(entries[-1]) if entries else None,
        [_of_entry(entry) for entry in settled],
        unsettled,
        live.model if said or not entries else (*reserved, entries[-1])[0].model,
        answered=any(attempt["state"] == "completed" for attempt in logged.values()),
    )


def _said_tokens(stored: Sequence[bytes]) -> Mapping[int, int]:
    """Return the output tokens of each attempt, as counted on arrival. Events of older servers have no count."""
    said: dict[int, int] = {}
    number = 1
    for event in map(events.decode, stored):
        number = events.speaker(event, number)
        if event.HasField("content_delta"):
            delta = event.content_delta
            said[number] = said.get(number, 0) + (delta.token_count or estimate_tokens(delta.text))
    return said


def _end(attempt: Attempt, entry: LedgerEntry, said_tokens: int) -> None:
    """The provider is taken to have read everything, and to have said what is stored of it."""
    output = min(said_tokens, attempt["parameters"]["max_output_tokens"])
    usage = TokenUsage(attempt["counted_input_tokens"], 0, 0, output, 0, estimated=True)
    ended = ending(entry.attempt, entry.model, usage, entry.create_time)
    attempt["state"], attempt["failure"], attempt["end_time"] = "interrupted", INTERRUPTED, now()
    attempt["usage"], attempt["cost"] = ended["usage"], ended["cost"]


def _attempt(entry: LedgerEntry, run: Run, request: ModelRequest) -> Attempt:
    """Of an attempt that was reserved and did not get into the AI log."""
    plan = run["plan"]
    parameters = AttemptParameters(
        temperature=plan["temperature"],
        seed=plan["seed"],
        reasoning_effort=plan["reasoning_effort"],
        max_output_tokens=plan["max_output_tokens"],
    )
    return Attempt(
        _id=attempt_id(run["_id"], entry.attempt),
        run_id=run["_id"],
        number=entry.attempt,
        model=entry.model,
        own_key=entry.own_key,
        continues=False,
        parameters=parameters,
        message_count=len(request.turns),
        counted_input_tokens=estimate_input(request),
        provider_response_id="",
        status=0,
        state="running",
        failure=None,
        error="",
        usage=None,
        cost=None,
        start_time=entry.create_time,
        first_content_time=None,
        end_time=None,
    )


def _ending(attempt: Attempt) -> Ending:
    cost = attempt["cost"] or Cost(nanos=0, currency="USD", version="none")
    return Ending(number=attempt["number"], usage=attempt["usage"], cost=cost)


def _of_entry(entry: LedgerEntry) -> Ending:
    usage = cast(Usage, {field.name: getattr(entry, field.name) for field in fields(TokenUsage)})
    cost = Cost(nanos=entry.cost_nanos, currency=entry.currency, version=entry.price_version)
    return Ending(number=entry.attempt, usage=usage, cost=cost)


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
