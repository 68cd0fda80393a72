"""The runs of this process: started, resumed, followed and stopped, outside of the calls that ask for it."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import structlog

from ..kit.errors import Unavailable
from ..kit.stores import retry_until_available
from ..kit.tasks import cancel_all
from . import claims
from .deps import RunDeps
from .executor import RunExecutor
from .models import ClaimLost, HandedOver, Run, StopReason
from .reservations import Reservations
from .start import ExistingRun, RunRequest, StartedRun, StartingRuns, start
from .streams.local import LocalRun
from .streams.redis import RedisEventBus
from .streams.remote import RemoteRuns

HEARTBEAT_SECONDS = 15.0
_TICK_SECONDS = 0.25

log = structlog.get_logger("runs")


class RunManager:
    """Owns the runs that this process executes, and the remote ones that its readers follow."""

    def __init__(
        self,
        deps: RunDeps,
        bus: RedisEventBus,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        interrupt_seconds: float = 3,
    ) -> None:
        """`interrupt_seconds`: how long an interrupted run may take to be stored; after that another server ends it."""
        self.remote = RemoteRuns(deps.db, deps.mongo, bus)
        self.closing = False
        self.draining = False  # it stops soon, and tells so
        self.deps = deps
        self._bus = bus
        self.heartbeat_seconds = heartbeat_seconds
        self.interrupt_seconds = interrupt_seconds
        self._starting = StartingRuns()
        self._executors: dict[UUID, RunExecutor] = {}
        self._execution: dict[UUID, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Execute runs until the context ends."""
        ticking = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            await self.close(0)
            await cancel_all([ticking])

    def find(self, run_id: UUID) -> LocalRun | None:
        executor = self._executors.get(run_id)
        return executor.run if executor else None

    @property
    def idle(self) -> bool:
        """Whether nothing is in progress, nor being stored or rolled back."""
        return not self._executors and not self.deps.tasks.pending

    @property
    def run_count(self) -> int:
        """Number of runs in progress in this process."""
        return len(self._executors)

    def is_starting(self, run_id: UUID) -> bool:
        return run_id in self._starting

    async def start(self, request: RunRequest) -> UUID:
        """Start a run and return its id, or that of the run that an earlier call with the same request_id started.

        A caller that disconnects meanwhile does not leave half a run behind.
        """
        if self.closing:
            raise Unavailable("The server is shutting down. Try again.")
        if not self.deps.lease.holds():
            raise Unavailable
        return await self.deps.tasks.complete(self._start(request))

    async def _start(self, request: RunRequest) -> UUID:
        started = await start(self.deps, self._starting, request)
        return started.run_id if isinstance(started, ExistingRun) else self._execute_started(started)

    def _execute_started(self, started: StartedRun) -> UUID:
        deps, document = self.deps, started.document
        run = self.local_run(started.spender.org_id, document, document["first_events"])
        if started.stop_reason:
            run.stop(started.stop_reason)
        reservations = Reservations(deps, started.spender)
        executor = RunExecutor(deps, run, started.plan, started.whole_request, reservations)
        execution = executor.execute(started.request, started.counted_tokens, started.slot)
        task = self._execute(executor, execution)
        task.add_done_callback(lambda _: started.slot.release())  # also if it never began
        return run.run_id

    def local_run(self, org_id: UUID, document: Run, stored: list[bytes], *, relayed: bool = True) -> LocalRun:
        """Return the run as it was when the last of the stored events was. `relayed`: Redis gets its events."""
        via_bus = relayed and self._bus.enabled and document["plan"]["resume_interrupted_runs"]
        holds_lease = self.deps.lease.holds
        return LocalRun(org_id, document, self.deps.load, holds_lease, stored, via_bus=via_bus)

    def resume(self, executor: RunExecutor, stream: int | None = None) -> None:
        """Resume a run of another server. `stream`: the number of its next stream in Redis."""
        self._execute(executor, executor.resume(), stream)

    def _execute(
        self, executor: RunExecutor, work: Coroutine[Any, Any, None], stream: int | None = 0
    ) -> asyncio.Task[None]:
        run = executor.run
        self._executors[run.run_id] = executor
        self._bus.publish(run, stream)
        task = self._execution[run.run_id] = self.deps.tasks.spawn(self._see_to_end(run, work))
        task.add_done_callback(lambda _: self._forget(run))
        return task

    async def _see_to_end(self, run: LocalRun, work: Coroutine[Any, Any, None]) -> None:
        server_id = self.deps.server_id
        try:
            with self.deps.tracing.span("run", parent=run.document.get("trace", "")):
                await work
        except Exception as error:
            if isinstance(error, ClaimLost):
                log.warning("claim_lost", run_id=str(run.run_id))
            elif isinstance(error, HandedOver):
                log.info("run_handed_over", run_id=str(run.run_id))
            else:
                log.exception("run_not_ended", run_id=str(run.run_id))
            await retry_until_available(lambda: self._release_claim(run.org_id, run.run_id, server_id))

    async def _release_claim(self, org_id: UUID, run_id: UUID, server_id: UUID) -> None:
        async with self.deps.db.write(org_id) as tx:
            await claims.release_claim(tx, run_id, server_id)

    def _forget(self, run: LocalRun) -> None:
        del self._executors[run.run_id], self._execution[run.run_id]
        run.end()

    def stop(self, run_ids: Iterable[UUID]) -> None:
        """Cancel those of the runs that are in progress in this process."""
        for run_id in run_ids:
            if run := self.find(run_id):
                run.stop(StopReason.CANCELLED)
            else:
                self._starting.stop(run_id)

    def on_lease_renewed(self) -> None:
        """Make visible what was held back while the lease did not hold."""
        for executor in self._executors.values():
            executor.run.publish_all()

    def on_lease_lost(self) -> None:
        """Stop all work: other servers may have taken the runs over."""
        self._starting.lose_all()
        for run_id, executor in self._executors.items():
            executor.run.detach()
            self._execution[run_id].cancel()

    async def wait_for_end(self, org_id: UUID, run_id: UUID) -> None:
        """Wait until a run has ended and is settled, whichever process executes it."""
        if run := self.find(run_id):
            await run.ended.wait()
            if run.concluded:
                return
        await claims.wait_until_closed(self.deps.db, org_id, run_id)

    async def close(self, grace_seconds: float) -> None:
        """Let runs and readers finish for a while, then stop the runs: what was said is stored and settled.

        A run whose policy wants that is handed over, to be resumed by another server, as after a crash; others end as
        interrupted. Takes at most `grace_seconds` and `interrupt_seconds`.
        """
        self.closing = self.draining = True
        await self._wait_until_idle(grace_seconds)
        for executor in list(self._executors.values()):
            resumes = executor.run.document["plan"]["resume_interrupted_runs"]
            executor.run.stop(StopReason.HANDED_OVER if resumes else StopReason.INTERRUPTED)
        await self._wait_until_idle(self.interrupt_seconds)
        self.remote.close()
        await self.deps.tasks.close()

    async def _wait_until_idle(self, seconds: float) -> None:
        """Wait until nothing is in progress here and nobody follows a remote run, or for so long."""
        end = time.monotonic() + seconds
        following = asyncio.create_task(self.remote.wait_until_idle(seconds))
        while (left := end - time.monotonic()) > 0:
            busy = {each for each in (following, *self.deps.tasks.pending) if not each.done()}
            if not busy:
                break
            await asyncio.wait(busy, timeout=left)  # a run that was starting goes on in another task
        following.cancel()

    async def _tick(self) -> None:
        """Measure the load, store events of runs that last, and send heartbeats."""
        ticks = 0
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            ticks += 1
            self.deps.load.measure()
            if ticks % round(self.deps.store_events_seconds / _TICK_SECONDS) == 0:
                for executor in list(self._executors.values()):
                    executor.store_events()
            if ticks % round(1 / _TICK_SECONDS) == 0:
                for executor in list(self._executors.values()):
                    executor.run.tick(self.heartbeat_seconds)
                self.remote.tick(self.heartbeat_seconds)
