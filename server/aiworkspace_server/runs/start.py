"""Starting a run: admission checks, reservation, and the first writes, which a failure rolls back."""

import asyncio
from dataclasses import dataclass, replace
from uuid import UUID

from aiworkspace.v1 import common_pb2

from ..conversations.history import BYTES_PER_TOKEN, ContextTooLong, fit, room, source_room
from ..conversations.models import Conversation
from ..conversations.store import ConversationStore, EndedRun, end_runs
from ..kit import typed
from ..kit.concurrency import QueueFull, Slot
from ..kit.errors import Aborted, AppError, InvalidArgument, NotFound, RateLimited, Unavailable
from ..kit.idempotency import request_id_reused
from ..kit.ids import id_after
from ..kit.stores import retry_until_available
from ..kit.timestamps import now
from ..llm.base import ModelRequest, Turn
from ..llm.tokens import bound_input, estimate_input, expect_input
from ..policies.plan import Plan, Target
from ..usage import ledger
from ..usage.ledger import Spender
from ..workspaces.retrieval import Retrieval
from . import claims, events
from .attempts.attempt import new_record
from .deps import RunDeps
from .finalize import conclude
from .models import Run, RunState, StopReason
from .plan import to_document
from .rights import RightLost
from .store import RunStore
from .transactions import Reservation, start_run

_TITLE_LENGTH = 60
_ROLLBACK_SECONDS = 1.0  # that a caller waits for a rollback, so that the call can be repeated at once


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a person asks of a model, checked."""

    org_id: UUID
    user_id: UUID
    key_id: UUID | None  # the caller's API key
    session_id: UUID | None  # or session
    conversation: Conversation
    content: str
    system_prompt: str
    plan: Plan
    turns: list[Turn]  # the conversation as far as it was read, and the question
    request_id: UUID | None
    content_hash: bytes
    retrieval: Retrieval | None = None  # documents to search first


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A run that is stored and reserved, with the slot at its provider that its first attempt holds."""

    document: Run
    spender: Spender
    plan: Plan  # from the first model on that may be asked
    request: ModelRequest  # for that model
    counted_tokens: int
    slot: Slot
    whole_request: ModelRequest  # with all turns that were read, for models with larger contexts
    stop_reason: StopReason | None  # asked for while it was starting


@dataclass(frozen=True, slots=True)
class ExistingRun:
    """The run that an earlier call with the same request_id started."""

    run_id: UUID


class StartingRuns:
    """The runs of this process from their first write until they are executed, and what is asked of them meanwhile."""

    def __init__(self) -> None:
        self._runs: dict[UUID, StopReason | None] = {}

    def __contains__(self, run_id: UUID) -> bool:
        return run_id in self._runs

    def stop(self, run_id: UUID) -> None:
        """Cancel a run as soon as it is executed, if it is one that is starting."""
        if run_id in self._runs:
            self._runs[run_id] = self._runs[run_id] or StopReason.CANCELLED

    def lose_all(self) -> None:
        """Take all of them for another server's: this one has lost its lease."""
        self._runs = dict.fromkeys(self._runs, StopReason.LOST)

    def is_lost(self, run_id: UUID) -> bool:
        return self._runs.get(run_id) == StopReason.LOST

    def add(self, run_id: UUID) -> None:
        self._runs[run_id] = None

    def remove(self, run_id: UUID) -> StopReason | None:
        return self._runs.pop(run_id)


async def start(deps: RunDeps, starting: StartingRuns, request: RunRequest) -> StartedRun | ExistingRun:
    """Admit, reserve and store a run; roll back what was written if that fails.

    Raise AppError, or RightLost if the caller, who was authorized a moment ago, may no longer have this run.
    """
    try:
        plan, model_request, counted_tokens, slot = await _admit(deps, request)
    except AppError:
        if existing := await _find_existing(deps, request):  # what was let through once is not refused
            return existing
        raise
    document = _new_document(request, plan, model_request, counted_tokens, deps.tracing.carried)
    run_id, spender, server_id = document["_id"], _spender(request, document), deps.server_id
    starting.add(run_id)
    try:
        if existing := await _reserve(deps, request, plan.targets[0], model_request, spender):
            slot.release()
            return existing
        await _store(deps, request, document)
        if not _is_own(deps, starting, run_id):
            raise Unavailable
    except (Aborted, InvalidArgument, RateLimited, RightLost):  # nothing was written
        slot.release()
        raise
    except BaseException:
        slot.release()
        await _undo(deps, request.org_id, document, server_id, own=_is_own(deps, starting, run_id))
        raise
    finally:
        stop_reason = starting.remove(run_id)
    whole_request = replace(model_request, turns=request.turns)
    return StartedRun(document, spender, plan, model_request, counted_tokens, slot, whole_request, stop_reason)


def _is_own(deps: RunDeps, starting: StartingRuns, run_id: UUID) -> bool:
    """Whether a run that is starting is still this server's: otherwise another one may have rolled it back."""
    return not starting.is_lost(run_id) and deps.lease.holds()


async def _undo(deps: RunDeps, org_id: UUID, document: Run, server_id: UUID, *, own: bool) -> None:
    """Roll back a run that could not be stored, beside the call if that takes long.

    One that may be another server's by now is left to it first.
    """
    ids = org_id, document["_id"], document["conversation_id"]
    if own:
        await asyncio.wait({deps.tasks.spawn(roll_back(deps, *ids))}, timeout=_ROLLBACK_SECONDS)
    else:
        deps.tasks.spawn(retry_until_available(lambda: _roll_back_after_takeover(deps, *ids, server_id)))


async def _roll_back_after_takeover(
    deps: RunDeps, org_id: UUID, run_id: UUID, conversation_id: UUID, server_id: UUID
) -> None:
    """Leave the run to the server that ends it, then undo what was stored too late for that."""
    async with deps.db.write(org_id) as tx:
        await claims.release_claim(tx, run_id, server_id)
    await claims.wait_until_closed(deps.db, org_id, run_id)
    found = await RunStore(deps.mongo, org_id).find(run_id)
    if found is None or found["state"] == RunState.RUNNING:
        await roll_back(deps, org_id, run_id, conversation_id)
    else:
        await conclude(deps, org_id, found)  # the conversation may have got the run after its end


async def _admit(deps: RunDeps, request: RunRequest) -> tuple[Plan, ModelRequest, int, Slot]:
    """Find the first model that has room for the request, and take a slot at its provider."""
    refused: AppError | None = None
    targets = request.plan.targets
    for index, target in enumerate(targets):
        try:
            slot = _acquire(deps, target, request.org_id)
            try:
                model_request = _fit(request, target)
                counted = estimate_input(model_request)
                with_sources = counted + _source_bytes(request, target) // BYTES_PER_TOKEN
                await request.plan.limits.take(target.model, with_sources + request.plan.max_output_tokens)
            except BaseException:
                slot.release()
                raise
        except (ContextTooLong, RateLimited, Unavailable) as error:
            refused = refused or error
        else:
            return replace(request.plan, targets=targets[index:]), model_request, counted, slot
    assert refused, "a plan has targets"
    raise refused


def _acquire(deps: RunDeps, target: Target, org_id: UUID) -> Slot:
    try:
        return deps.limiter.acquire(target.provider.name, org_id)
    except QueueFull:
        raise Unavailable("Too many answers are being waited for already. Try again later.", 5) from None


def _fit(request: RunRequest, target: Target) -> ModelRequest:
    plan = request.plan
    tokens = room(target, plan.max_output_tokens) - _source_bytes(request, target) // BYTES_PER_TOKEN
    turns = fit(request.turns, request.system_prompt, tokens)
    return ModelRequest(target.name, request.system_prompt, turns, plan.max_output_tokens, plan.parameters)


def _source_bytes(request: RunRequest, target: Target) -> int:
    """Return an upper bound of what passages of documents add to the request: they are found after the reservation."""
    if request.retrieval is None:
        return 0
    return source_room(request.turns, request.system_prompt, room(target, request.plan.max_output_tokens))


async def _find_existing(deps: RunDeps, request: RunRequest) -> ExistingRun | None:
    if request.request_id is None:
        return None
    async with deps.db.read(request.org_id) as tx:
        earlier = await claims.find_request(tx, request.user_id, request.request_id)
    return existing_run(request.content_hash, earlier.run_id, earlier.content_hash) if earlier else None


def existing_run(content_hash: bytes, run_id: UUID | None, earlier_hash: bytes | None) -> ExistingRun | None:
    """Return the run of an earlier request, if there is one. Raise InvalidArgument if that had other content."""
    if run_id is None:
        return None
    if earlier_hash != content_hash:
        raise request_id_reused()
    return ExistingRun(run_id)


async def _reserve(
    deps: RunDeps, request: RunRequest, target: Target, model_request: ModelRequest, spender: Spender
) -> ExistingRun | None:
    """Claim the conversation and reserve for the first attempt, or find the run of an earlier request.

    Raise RightLost if the caller, who was authorized a moment ago, may no longer have this run.
    """
    more = _source_bytes(request, target)
    amount, expected = (
        ledger.reservation(target.model, count, model_request.max_output_tokens, spender.run_time)
        for count in (bound_input(model_request) + more, expect_input(model_request) + more // BYTES_PER_TOKEN)
    )
    reservation = Reservation(target.model, target.own_key, amount, expected.nanos)
    earlier = await start_run(
        deps.db,
        spender,
        reservation,
        deps.ledger.allowance_nanos,
        request.content_hash,
        request.session_id,
        deps.server_id,
    )
    if earlier is None:
        return None
    if existing := existing_run(request.content_hash, *earlier):
        return existing
    raise Aborted(
        common_pb2.ERROR_REASON_RUN_IN_PROGRESS,
        "Another run is in progress in this conversation: wait for its end or cancel it.",
    )


async def _store(deps: RunDeps, request: RunRequest, document: Run) -> None:
    """Store the run and make it the active one of its conversation.

    Both writes are waited for even if one fails, so that none comes after the rollback.
    """
    conversations = ConversationStore(deps.mongo, request.org_id)
    size, title = len(request.content.encode()), typed.title(request.content, _TITLE_LENGTH)
    inserted, begun = await asyncio.gather(
        RunStore(deps.mongo, request.org_id).insert(document),
        conversations.begin_run(request.conversation, document["_id"], size, title),
        return_exceptions=True,
    )
    for outcome in (inserted, begun):
        if isinstance(outcome, BaseException):
            raise outcome
    if not begun:
        if await conversations.find(document["conversation_id"]) is None:
            raise NotFound("conversation_id")
        raise Unavailable("The conversation changed while your message was being stored. Retry.")


async def roll_back(deps: RunDeps, org_id: UUID, run_id: UUID, conversation_id: UUID) -> None:
    """Remove what was stored of a run that did not start, so that its call can be repeated. Safe to repeat."""

    async def undo() -> None:
        await RunStore(deps.mongo, org_id).delete([run_id])
        await end_runs(deps.mongo, [EndedRun(org_id, conversation_id, run_id, 0)])
        async with deps.db.write(org_id) as tx:
            await ledger.count_alone(tx, org_id)  # waits for a reservation whose COMMIT got no reply
            for entry in await ledger.list_reserved(tx, run_id):
                await deps.ledger.release(tx, org_id, run_id, entry.attempt)
            await claims.withdraw(tx, run_id)

    await retry_until_available(undo)


def _new_document(request: RunRequest, plan: Plan, model_request: ModelRequest, counted_tokens: int, trace: str) -> Run:
    first = plan.targets[0]
    run_id = id_after(request.conversation.get("last_run_id"))
    question_id = id_after(run_id)
    run = Run(
        _id=run_id,
        workspace_id=request.conversation["workspace_id"],
        conversation_id=request.conversation["_id"],
        user_id=request.user_id,
        user_message_id=question_id,
        message_id=id_after(question_id),
        question=[{"kind": "text", "text": request.content}],
        answer=[],
        answer_model="",
        model=request.plan.asked or request.plan.targets[0].model,
        plan=to_document(plan),
        state=RunState.RUNNING,
        finish_reason="",
        failure=None,
        usage=None,
        cost=None,
        attempt_count=0,
        attempts=[new_record(1, first.model, model_request, counted_tokens, now(), own_key=first.own_key)],
        unsettled=[],
        takeovers=0,
        first_events=[],
        last_events=[],
        event_count=0,
        end_id=None,
        create_time=now(),
        end_time=None,
    )
    if request.retrieval:
        run["retrieval"] = request.retrieval
    if trace:
        run["trace"] = trace
    run["first_events"] = [events.encode_started(run)]
    return run


def _spender(request: RunRequest, run: Run) -> Spender:
    return Spender(
        request.org_id,
        run["workspace_id"],
        run["conversation_id"],
        run["_id"],
        run["create_time"],
        request.user_id,
        request.key_id,
        request.request_id,
    )
