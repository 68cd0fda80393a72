"""Runs one attempt: acquire a slot, call the provider, record the outcome."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from ...kit.concurrency import Slot
from ...llm.base import ErrorKind, ProviderError, TokenUsage
from ...llm.breaker import Asked
from ..deps import RunDeps
from ..models import RunState
from ..reservations import Reservations
from ..streams.local import LocalRun
from .attempt import Attempt
from .log import AttemptLog
from .measures import about, describe, measure
from .output import OutputSelector

Result = TypeVar("Result")
log = structlog.get_logger("runs")


class AttemptRunner:
    """Runs the attempts of one run, within the time that the run may take."""

    def __init__(
        self, deps: RunDeps, run: LocalRun, output: OutputSelector, attempts: AttemptLog, reservations: Reservations
    ) -> None:
        self.timed_out = False
        self._deps = deps
        self._run = run
        self._output = output
        self._attempts = attempts
        self._reservations = reservations
        self._deadline = asyncio.get_running_loop().time() + deps.run_seconds

    async def run(self, attempt: Attempt, slot: Slot | None = None) -> None:
        """Take an attempt to its end. `slot`: one that is held already."""
        self._attempts.add(attempt)
        slot = slot or self._acquire(attempt)
        try:
            if not slot.granted:
                await self.within(slot.wait(), attempt)
            with self._deps.tracing.span(f"chat {attempt.target.name}", about(attempt), client=True) as span:
                await self._ask(attempt)
                describe(span, attempt)
        finally:
            slot.release()
        self._output.finish(attempt)
        self._reservations.ended(attempt.settlement())
        measure(self._deps.metrics, attempt)
        if attempt.state == RunState.FAILED:
            self._report_failure(attempt)

    async def within(self, work: Coroutine[Any, Any, Result], attempt: Attempt | None = None) -> asyncio.Task[Result]:
        """Do what may take long until the run or the attempt is stopped, or the run's time is up. Return the task."""
        task = asyncio.create_task(work)
        self._run.add_work(task)
        if attempt:
            attempt.run_as(task)
        if self.timed_out:
            task.cancel()
        try:
            done, _ = await asyncio.wait({task}, timeout=self._deadline - asyncio.get_running_loop().time())
            self.timed_out = self.timed_out or not done
        finally:
            task.cancel()
        if not task.done():
            await asyncio.wait({task})
        return task

    def _acquire(self, attempt: Attempt) -> Slot:
        """A run that was admitted is not refused later for want of a slot."""
        return self._deps.limiter.acquire(attempt.target.provider.name, self._run.org_id, bounded=False)

    async def _ask(self, attempt: Attempt) -> None:
        account = attempt.target.account
        admitted = attempt.admitted = self._deps.breakers.enter(Asked(account, attempt.target.name, self._run.org_id))
        if admitted is None:
            text = f"{account}: not asked, since it failed too often of late"
            return attempt.refuse(ProviderError(ErrorKind.UNAVAILABLE, text, free=True))
        try:
            task = await self.within(self._begin(attempt), attempt)
            attempt.end(task, self._run.stop_reason)
            if attempt.excess:
                self._report_excess(attempt, attempt.excess)
            if attempt.overbilled:
                admitted.failed(ErrorKind.OVERBILLED)
            elif attempt.state == RunState.COMPLETED:
                admitted.succeeded()
            elif isinstance(attempt.error, ProviderError):
                admitted.failed(attempt.error.kind)
        finally:
            admitted.left()

    async def _begin(self, attempt: Attempt) -> None:
        """Never entered if the run was stopped before."""
        started = {"attempt": attempt.number, "model": attempt.target.model, "continues": attempt.continues}
        self._run.emit(attempt_started=started)
        await attempt.ask()

    def _report_excess(self, attempt: Attempt, usage: TokenUsage) -> None:
        """Log usage above the limit. It is charged as billed and marked; `reconcile` corrects what is wrong."""
        log.error(
            "usage_above_limit",
            run_id=str(self._run.run_id),
            number=attempt.number,
            model=attempt.target.model,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            max_output_tokens=attempt.request.max_output_tokens,
        )

    def _report_failure(self, attempt: Attempt) -> None:
        number, model, error = attempt.number, attempt.target.model, attempt.error
        self._run.flush()
        self._run.emit(attempt_failed={"attempt": number, "model": model, "failure": attempt.failure})
        unexpected = None if isinstance(error, ProviderError | None) else error
        run_id = str(self._run.run_id)
        log.warning("attempt_failed", run_id=run_id, number=number, model=model, error=str(error), exc_info=unexpected)
