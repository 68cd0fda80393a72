"""Takeover of orphaned runs: finish or resume each one.

Every run in progress has an open claim that names its server, so a run whose server does not live is an orphan. The
first server that takes its claim over works on it.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import structlog

from ...kit.ids import new_id
from ...kit.stores import STORE_UNAVAILABLE, retry_until_available
from ...policies.plan import Plans
from .. import claims
from ..attempts.failures import INTERRUPTED
from ..deps import RunDeps
from ..executor import RunExecutor
from ..finalize import complete_end, conclude, finalize, store_events
from ..leases import LeaseWatch
from ..manager import RunManager
from ..models import ClaimLost, EventBatch, Run, RunState, StopReason
from ..plan import from_document
from ..reservations import Reservations
from ..start import roll_back
from ..store import RunStore
from ..streams.redis import RedisEventBus
from .snapshot import RunSnapshot, take_snapshot

_AT_ONCE = 8
_RETRY_SECONDS = 60.0  # after a run could not be recovered

log = structlog.get_logger("recovery")


class Outcome(StrEnum):
    ENDED = "ended"
    RESUMED = "resumed"
    ROLLED_BACK = "rolled_back"  # it had been reserved and not stored


@dataclass(frozen=True, slots=True)
class Recovered:
    outcome: Outcome
    executor: RunExecutor | None = None  # that resumes the run, to be started


class Takeover:
    """Takes over the runs of dead servers, and those that a living one could not end."""

    def __init__(self, deps: RunDeps, plans: Plans, manager: RunManager, bus: RedisEventBus) -> None:
        self._deps = deps
        self._plans = plans
        self._manager = manager
        self._bus = bus
        self._leases = LeaseWatch()
        self._postponed: dict[UUID, float] = {}  # until when

    async def take_over_orphans(self) -> None:
        async with self._deps.db.write() as tx:
            silent = self._leases.look(await claims.list_leases(tx, self._deps.server_id))
            dead = [lease for lease in silent if await claims.end_lease(tx, lease)]
            orphans = await claims.list_orphaned(tx)
        for server in dead:
            log.warning("server_died", server_id=str(server.id), name=server.name)
        turns = asyncio.Semaphore(_AT_ONCE)

        async def in_turn(orphan: claims.Found) -> None:
            async with turns:
                await self._take_over(orphan)

        await asyncio.gather(*(in_turn(orphan) for orphan in orphans if self._is_due(orphan.run_id)))

    def _is_due(self, run_id: UUID) -> bool:
        return self._postponed.get(run_id, 0.0) <= time.monotonic()

    async def _take_over(self, orphan: claims.Found) -> None:
        server_id = self._deps.server_id
        try:
            async with self._deps.db.write(orphan.org_id) as tx:
                claim = await claims.take(tx, orphan, server_id)
            if claim is None:
                return
            outcome = await self._recover(orphan, StopReason(claim.stop) if claim.stop else None)
            self._postponed.pop(orphan.run_id, None)
            self._deps.metrics.taken_over.inc()
            log.info("run_taken_over", run_id=str(orphan.run_id), outcome=outcome)
        except STORE_UNAVAILABLE as error:  # whatever was committed of it
            log.warning("takeover_failed", run_id=str(orphan.run_id), error=type(error).__name__)
            await retry_until_available(lambda: self._release_claim(orphan, server_id))
        except Exception:
            log.exception("takeover_failed", run_id=str(orphan.run_id))  # one bad document must not stop the others
            self._postponed[orphan.run_id] = time.monotonic() + _RETRY_SECONDS
            await retry_until_available(lambda: self._release_claim(orphan, server_id))

    async def _release_claim(self, orphan: claims.Found, server_id: UUID) -> None:
        async with self._deps.db.write(orphan.org_id) as tx:
            await claims.release_claim(tx, orphan.run_id, server_id)

    async def _recover(self, orphan: claims.Found, stop: StopReason | None) -> Outcome:
        relayed, stream = await self._bus.take_over(orphan.run_id)
        if relayed:
            await save_relayed(self._deps, orphan.org_id, orphan.run_id, relayed)
        ids = orphan.org_id, orphan.run_id, orphan.conversation_id
        via_bus = self._bus.enabled and stream is not None
        recovered = await recover_run(self._deps, self._plans, *ids, stop, via_bus=via_bus)
        if recovered.executor:
            self._manager.resume(recovered.executor, stream)
        return recovered.outcome


async def recover_run(
    deps: RunDeps,
    plans: Plans,
    org_id: UUID,
    run_id: UUID,
    conversation_id: UUID,
    stop: StopReason | None = None,
    *,
    via_bus: bool = False,
) -> Recovered:
    """Do what is left to do for an orphaned run, or return what resumes it. `stop`: it was to be stopped.

    Should its server live after all, it can store or reserve nothing from then on.
    """
    store = RunStore(deps.mongo, org_id)
    while True:
        run = await store.take_over(run_id)
        if run is None:
            await roll_back(deps, org_id, run_id, conversation_id)
            return Recovered(Outcome.ROLLED_BACK)
        if run["state"] != RunState.RUNNING:
            await complete_end(deps, org_id, run)
            await conclude(deps, org_id, run)
            return Recovered(Outcome.ENDED)
        try:
            return await _finish_or_resume(deps, plans, org_id, run, stop, via_bus=via_bus)
        except ClaimLost:  # its server has stored events in the meantime
            log.warning("run_changed_during_takeover", run_id=str(run_id))


async def _finish_or_resume(
    deps: RunDeps, plans: Plans, org_id: UUID, run: Run, stop: StopReason | None, *, via_bus: bool
) -> Recovered:
    via_bus = via_bus and run["plan"]["resume_interrupted_runs"]
    snapshot = await take_snapshot(deps, org_id, run, via_bus=via_bus)
    await store_events(deps, snapshot.run)
    executor = None if stop else await _resume(deps, plans, snapshot)
    if executor:
        await RunStore(deps.mongo, org_id).save_attempts(run)
        return Recovered(Outcome.RESUMED, executor)
    await _end(deps, snapshot, stop or StopReason.INTERRUPTED)
    return Recovered(Outcome.ENDED)


async def _end(deps: RunDeps, snapshot: RunSnapshot, reason: StopReason) -> None:
    """End the run with what was stored of its answer."""
    run = snapshot.run
    run.finish_content()
    run.end_early(reason, INTERRUPTED if reason == StopReason.INTERRUPTED else None)
    await finalize(deps, run, snapshot.settled, snapshot.unsettled)


async def _resume(deps: RunDeps, plans: Plans, snapshot: RunSnapshot) -> RunExecutor | None:
    """Return what continues the run with a new attempt of the same model.

    None if its policy does not want that, its answer is whole, or none of its models may be asked any more.
    """
    run = snapshot.run.document
    if snapshot.answered or snapshot.spender is None or not run["plan"]["resume_interrupted_runs"]:
        return None
    models = run["plan"]["models"]
    last = models.index(snapshot.model) if snapshot.model in models else 0
    targets = await plans.targets(snapshot.run.org_id, run["workspace_id"], models[last:])
    if not targets:
        return None
    plan = from_document(run["plan"], targets)
    reservations = Reservations(deps, snapshot.spender, snapshot.settled, snapshot.unsettled)
    return RunExecutor(deps, snapshot.run, plan, snapshot.request, reservations)


async def save_relayed(deps: RunDeps, org_id: UUID, run_id: UUID, relayed: Mapping[int, bytes]) -> None:
    """Store the events that readers have seen and the dead server had not stored.

    Only those that follow the last stored event: a server that went on without Redis has other events there, and Redis
    has those of a server before it.
    """
    stored = await RunStore(deps.mongo, org_id).find_events(run_id)
    known = stored.after(0) if stored else []
    if not known or relayed.get(len(known)) != known[-1]:
        return
    first = sequence = len(known) + 1
    while sequence in relayed:
        sequence += 1
    if sequence > first:
        unstored = [relayed[number] for number in range(first, sequence)]
        batch = EventBatch(_id=new_id(), run_id=run_id, first=first, events=unstored)
        await deps.group_commit.events.do((org_id, batch))
