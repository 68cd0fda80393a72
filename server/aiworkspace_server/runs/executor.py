"""Carries one run from its first attempt to its end: the attempt loop."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import structlog

from ..conversations.history import fit, room, source_room
from ..kit.concurrency import Slot
from ..kit.errors import AppError
from ..kit.stores import retry_until_available
from ..kit.timestamps import now
from ..llm.base import ModelRequest, SourceText, Turn
from ..llm.breaker import Asked
from ..llm.reply import MOST_SAID_BYTES
from ..llm.tokens import count_sources, estimate_input
from ..policies.plan import Plan, Target
from ..usage.ledger import BudgetExhausted, Spender
from .attempts.attempt import Attempt, unpaid
from .attempts.failures import INTERNAL, INTERRUPTED, TIMED_OUT, refusal
from .attempts.fallback import FallbackPolicy
from .attempts.hedging import hedge
from .attempts.log import AttemptLog
from .attempts.output import OutputSelector
from .attempts.runner import AttemptRunner
from .citations.cited import CitedAnswer
from .citations.sources import Reader
from .deps import RunDeps
from .finalize import finalize, store_events
from .models import ClaimLost, HandedOver, RunState, StopReason
from .reservations import Reservations
from .rights import RightLost
from .store import RunStore
from .streams.local import LocalRun

_LEASE_POLL_SECONDS = 0.05
_CONTINUE = (
    "Your answer broke off. Go on exactly where it broke off, with the very next character. Do not repeat any of it,"
    " and do not mention that it broke off."
)

log = structlog.get_logger("runs")


class RunExecutor:
    """Carries one run to its end. What has to be stored is stored, however long a database is unavailable."""

    def __init__(
        self, deps: RunDeps, run: LocalRun, plan: Plan, request: ModelRequest, reservations: Reservations
    ) -> None:
        """`request` has all turns that were read, also those that only larger contexts than the first have room for."""
        self.run = run
        self._deps = deps
        self._store = RunStore(deps.mongo, run.org_id)
        self._plan = plan
        self._request = request
        self._reservations = reservations
        self._fallback = FallbackPolicy(plan, self._has_open_breaker, deps.tries_per_target)
        self._model = run.document["model"]  # that was asked last
        self._answered = False  # what is left to store is stored with the end
        self._storing: asyncio.Task[None] | None = None
        self._attempts = AttemptLog(self._store, run)
        self._cited = CitedAnswer(deps, run, _reader(reservations.spender)) if run.document.get("retrieval") else None
        self._output = OutputSelector(run, self._cited)
        self._runner = AttemptRunner(deps, run, self._output, self._attempts, reservations)

    def _has_open_breaker(self, target: Target) -> bool:
        return self._deps.breakers.is_open(Asked(target.account, target.name, self.run.org_id))

    async def execute(self, request: ModelRequest, counted_tokens: int, slot: Slot) -> None:
        """Begin with a first attempt for which a reservation and a slot are held."""
        self._model = self._fallback.target.model
        await self._carry_out(self._answer(partial(self._first, request, counted_tokens), slot))

    async def resume(self) -> None:
        """Begin with a new attempt, where another server stopped."""
        await self._carry_out(self._answer(None, None))

    async def _carry_out(self, answering: Coroutine[Any, Any, None]) -> None:
        try:
            try:
                await answering
            except HandedOver:
                await self._store_all()
                raise
            self.run.finish_content()
            if self._cited:
                await self._cited.finish()
            self._answered = True
            if self._storing:
                await self._storing
            await self._until_lease_holds()
            await self._attempts.finish()
            await finalize(self._deps, self.run, self._reservations.settled, self._reservations.unsettled)
        except BaseException:
            self._attempts.close()
            if self._cited:
                self._cited.close()
            if self._storing:
                self._storing.cancel()
                await asyncio.wait({self._storing})
            raise

    async def _store_all(self) -> None:
        """Store what another server needs to go on from here."""
        self.run.flush()
        self._answered = True
        if self._storing:
            await self._storing
        await self._until_lease_holds()
        await store_events(self._deps, self.run)
        await self._attempts.finish()
        await retry_until_available(lambda: self._store.save_attempts(self.run.document))

    def store_events(self) -> None:
        """Store new events beside the answer, so that a killed server loses little. To be called now and then."""
        idle = not self._answered and (self._storing is None or self._storing.done())
        if idle and self.run.holds_lease and self.run.has_unstored_events:
            self._storing = asyncio.create_task(self._store_events())

    async def _store_events(self) -> None:
        try:
            await store_events(self._deps, self.run)
        except ClaimLost:
            self.run.stop(StopReason.LOST)
            raise

    async def _until_lease_holds(self) -> None:
        """Wait until the run is certainly still this server's. When the lease is lost this task is cancelled."""
        while not self.run.holds_lease:  # noqa: ASYNC110 - the lease is a clock, which has no event
            await asyncio.sleep(_LEASE_POLL_SECONDS)

    async def _answer(self, first: Callable[[], Attempt] | None, slot: Slot | None) -> None:
        """Run attempts until one succeeds or the policy is exhausted, and set the run's final state.

        `first`: makes the first attempt, for which a reservation is held.
        """
        try:
            if self._cited:
                await self._runner.within(self._cited.find(self._request.turns))
            attempt = first() if first else await self._next(self._fallback.target)
            if self._cited:
                await self._cited.store()
            while not self._is_over(attempt := await self._run_attempt(attempt, slot)):
                step = self._fallback.after(attempt.error, has_output=attempt.has_output)
                if step is None or (attempt.has_output and self.run.size_bytes >= MOST_SAID_BYTES):
                    return self.run.fail(attempt.failure or INTERNAL)
                target, seconds = step
                await self._runner.within(asyncio.sleep(seconds))
                if self._is_over(attempt):
                    return
                attempt, slot = await self._next_possible(target), None
        except AppError as error:  # a budget, a limit, or a context that is too small
            self.run.fail(refusal(error))
        except RightLost:
            self.run.stop(StopReason.CANCELLED)
            self.run.end_early(StopReason.CANCELLED)
        except (ClaimLost, HandedOver):
            raise
        except Exception:
            log.exception("run_failed", run_id=str(self.run.run_id))
            self.run.fail(INTERNAL)
            # Attempts that failed before accounting are recorded at zero cost.
            self._reservations.abandon([unpaid(number) for number in range(1, self._reservations.next_number)])

    async def _run_attempt(self, attempt: Attempt, slot: Slot | None) -> Attempt:
        """Return the attempt whose outcome counts: a hedged one may have been faster."""
        if not self._plan.hedge_after_seconds or attempt.number > 1:
            await self._runner.run(attempt, slot)
            return attempt
        first = asyncio.create_task(self._runner.run(attempt, slot))
        return await hedge(self._output, {first: attempt}, self._plan.hedge_after_seconds, self._start_second)

    async def _start_second(self) -> tuple[asyncio.Task[None], Attempt] | None:
        """Start an attempt beside the first; None if there is no other target, or a limit forbids it."""
        target = self._fallback.next_target
        try:
            attempt = await self._next(target, beside=True) if target else None
        except AppError:
            return None  # the first attempt may still be retried
        except RightLost:
            self.run.stop(StopReason.CANCELLED)
            return None
        self._fallback.advance()
        return (asyncio.create_task(self._runner.run(attempt)), attempt) if attempt else None

    def _is_over(self, attempt: Attempt) -> bool:
        """Whether there is an answer, or the run was stopped or has taken too long; sets the run's final state."""
        reason = self.run.stop_reason
        if attempt.state == RunState.COMPLETED:
            self.run.complete(attempt.finish_reason)
        elif reason == StopReason.LOST:
            raise ClaimLost
        elif reason == StopReason.HANDED_OVER:
            if attempt.state == RunState.INTERRUPTED:
                failed = {"attempt": attempt.number, "model": attempt.target.model, "failure": INTERRUPTED}
                self.run.flush()
                self.run.emit(attempt_failed=failed)
            raise HandedOver
        elif reason:
            self.run.end_early(reason, INTERRUPTED if reason == StopReason.INTERRUPTED else None)
        elif self._runner.timed_out:
            self.run.fail(TIMED_OUT)
        else:
            return False
        return True

    def _first(self, request: ModelRequest, counted_tokens: int) -> Attempt:
        """Make the first attempt. Its reservation has room for the sources, which were found since."""
        target = self._fallback.target
        if self._cited and (sources := self._sources_for(target, self._request.turns, 1)):
            request = replace(request, sources=sources)
            counted_tokens = estimate_input(request)
            self.run.document["attempts"][0]["counted_input_tokens"] = counted_tokens
        return self._attempt(1, target, request, counted_tokens, self._reservations.spender.run_time)

    def _sources_for(self, target: Target, turns: Sequence[Turn], least: int) -> list[SourceText]:
        tokens = room(target, self._plan.max_output_tokens)
        return self._cited.give(source_room(turns, self._request.system, tokens, least)) if self._cited else []

    def _attempt(
        self, number: int, target: Target, request: ModelRequest, counted_tokens: int, reserve_time: datetime
    ) -> Attempt:
        request = replace(request, model=target.name, request_id=f"{self.run.run_id}/{number}")
        self._output.continue_answer()
        continues = self.run.has_content
        send, cite = self._output.send, self._output.cite
        return Attempt(number, target, request, counted_tokens, send, cite, reserve_time, continues=continues)

    def _request_for(self, target: Target) -> ModelRequest:
        """Return what fits into the target's context of the conversation and of the answer so far.

        Raise ContextTooLong if that is not even the question and the answer so far.
        """
        turns, said = list(self._request.turns), self._output.text
        if continues := bool(said.strip()):
            turns += [Turn("assistant", said), Turn("user", _CONTINUE)]
        least = 3 if continues else 1
        sources = self._sources_for(target, turns, least)
        tokens = room(target, self._plan.max_output_tokens) - count_sources(sources)
        return replace(self._request, turns=fit(turns, self._request.system, tokens, least), sources=sources)

    async def _next_possible(self, target: Target) -> Attempt:
        """Reserve for an attempt of this target or, if its context or a limit forbids that, of a later one."""
        while True:
            try:
                return await self._next(target)
            except BudgetExhausted:
                raise
            except AppError:
                later = self._fallback.advance()
                if later is None:
                    raise
                target = later

    async def _next(self, target: Target, *, beside: bool = False) -> Attempt:
        """Reserve for the next attempt; settle those before it, unless one goes on beside it."""
        if self._cited and self.run.has_content:
            await self._cited.finish()  # what continues the answer gets the markers that were true
        number, request = self._reservations.next_number, self._request_for(target)
        counted = estimate_input(request)
        if target.model != self._model:
            await self._plan.limits.take(target.model, counted + request.max_output_tokens)
        time = now()
        attempt = self._attempt(number, target, request, counted, time)
        await self._reservations.reserve(target, request, time, settle=not beside)
        self._model = target.model
        return attempt


def _reader(spender: Spender) -> Reader:
    return Reader(spender.org_id, spender.workspace_id, spender.user_id, spender.key_id)
