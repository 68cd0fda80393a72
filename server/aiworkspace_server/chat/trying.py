"""One attempt, from the gate of its provider to its account."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar
from uuid import UUID

import structlog

from ..kit.concurrency import Slot
from ..llm.base import ErrorKind, ProviderError, TokenUsage
from ..llm.breaker import Asked
from .ailog import AiLog
from .asking import Asking
from .engine import Engine
from .live import LiveRun
from .models import Ending
from .voice import Voice

Result = TypeVar("Result")
log = structlog.get_logger("runs")


class Tries:
    """The attempts of a run, under its clock. `unsettled` are the endings of which the ledger does not know yet."""

    def __init__(self, engine: Engine, live: LiveRun, voice: Voice, ailog: AiLog, unsettled: list[Ending]) -> None:
        self.unsettled = unsettled
        self.timed_out = False
        self._engine = engine
        self._live = live
        self._voice = voice
        self._log = ailog
        self._deadline = asyncio.get_running_loop().time() + engine.run_seconds

    async def make(self, asking: Asking, place: Slot | None = None) -> None:
        """Waits for a place unless there is one already, asks, and notes how it ended."""
        place = place or self._enter(asking, self._live.org_id)
        try:
            if not place.granted:
                await self.within(place.wait(), asking)
            await self._ask(asking)
        finally:
            place.release()
        self._voice.finish()
        ending = asking.ending()
        self.unsettled.append(ending)
        self._log.end(asking, ending)
        if asking.state == "failed":
            self._tell_failure(asking)

    async def within(self, work: Coroutine[Any, Any, Result], asking: Asking | None = None) -> asyncio.Task[Result]:
        """Does what may take long: until run or attempt is stopped, or the time is over. Returns the task, done."""
        task = asyncio.create_task(work)
        self._live.work.add(task)
        if asking:
            asking.work = task
        if self._live.stop_state or self.timed_out or (asking and asking.lost):
            task.cancel()
        try:
            done, _ = await asyncio.wait({task}, timeout=self._deadline - asyncio.get_running_loop().time())
            self.timed_out = self.timed_out or not done
        finally:
            task.cancel()
            self._live.work.discard(task)
        await asyncio.wait({task})
        return task

    def _enter(self, asking: Asking, org_id: UUID) -> Slot:
        """The run has been let in: its later attempts are not refused for want of room."""
        return self._engine.limiter.acquire(asking.target.provider.name, org_id, bounded=False)

    async def _ask(self, asking: Asking) -> None:
        asked = Asked(asking.target.account, asking.target.name, self._live.org_id)
        admitted = asking.admitted = self._engine.breakers.enter(asked)
        if admitted is None:
            text = f"{asking.target.account}: not asked, since it failed too often of late"
            return asking.refuse(ProviderError(ErrorKind.UNAVAILABLE, text, free=True))
        try:
            task = await self.within(self._begin(asking), asking)
            asking.end(task, self._live.stop_state)
            if asking.excess:
                self._log_excess(asking, asking.excess)
            if asking.overbilled:
                admitted.failed(ErrorKind.OVERBILLED)
            elif asking.state == "completed":
                admitted.succeeded()
            elif isinstance(asking.error, ProviderError):
                admitted.failed(asking.error.kind)
        finally:
            admitted.left()

    async def _begin(self, asking: Asking) -> None:
        """Not begun at all when the run was stopped before."""
        started = {"attempt": asking.number, "model": asking.target.model, "continues": asking.continues}
        self._live.emit(attempt_started=started)
        self._log.begin(asking)
        await asking.ask()

    def _log_excess(self, asking: Asking, usage: TokenUsage) -> None:
        """Log usage above the limit. It is charged as billed and marked; `reconcile` corrects what is wrong."""
        log.error(
            "usage_above_limit",
            run_id=str(self._live.run["_id"]),
            number=asking.number,
            model=asking.target.model,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            max_output_tokens=asking.request.max_output_tokens,
        )

    def _tell_failure(self, asking: Asking) -> None:
        number, model, error = asking.number, asking.target.model, asking.error
        self._live.flush()
        self._live.emit(attempt_failed={"attempt": number, "model": model, "failure": asking.failure})
        unexpected = None if isinstance(error, ProviderError | None) else error
        run_id = str(self._live.run["_id"])
        log.warning("attempt failed", run_id=run_id, number=number, model=model, error=str(error), exc_info=unexpected)
