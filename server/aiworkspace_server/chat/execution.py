"""The work of one run: ask one model or several, store what they say, settle each attempt, end the run."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

import structlog

from ..kit.concurrency import Slot
from ..kit.errors import AppError
from ..kit.postgres import WriteSession
from ..kit.stores import retry_until_available
from ..kit.timestamps import now
from ..llm.base import ModelRequest, Turn
from ..llm.breaker import Asked
from ..llm.reply import MOST_SAID_BYTES
from ..llm.tokens import bound_input, estimate_input, expect_input
from ..policies.plan import Plan, Target
from ..usage import ledger
from ..usage.ledger import BudgetExhausted, Spender
from . import claims, rights
from .ailog import AiLog
from .asking import Asking, unpaid
from .context import fit, room
from .course import Course
from .ending import end_reservation, finish, store_events
from .engine import Engine, LostRun
from .failures import INTERNAL, INTERRUPTED, TIMED_OUT, refusal
from .hedging import hedge
from .live import LiveRun
from .models import Ending, Failure
from .rights import RightLost
from .store import ChatStore
from .trying import Tries
from .voice import Voice

_LEASE_LOOK_SECONDS = 0.05
_STORE_SECONDS = 0.5  # how much of an answer a kill -9 may cost
_GO_ON = (
    "Your answer broke off. Go on exactly where it broke off, with the very next character. Do not repeat any of it,"
    " and do not mention that it broke off."
)

log = structlog.get_logger("runs")


class Execution:
    """Carries one run to its end. Whatever has to be stored is stored, however long a store is away."""

    def __init__(
        self,
        engine: Engine,
        live: LiveRun,
        spender: Spender,
        plan: Plan,
        request: ModelRequest,
        settled: Sequence[Ending] = (),
        unsettled: Sequence[Ending] = (),
    ) -> None:
        """`request` has all that was said. The endings are those of attempts that another server made."""
        self.live = live
        self._engine = engine
        self._store = ChatStore(engine.mongo, spender.org_id)
        self._spender = spender
        self._plan = plan
        self._request = request
        self._settled = list(settled)
        self._number = max((ending["number"] for ending in (*settled, *unsettled)), default=1)  # of the last attempt
        self._course = Course(plan, self._is_closed)
        self._model = live.run["model"]  # that was asked last
        self._log = AiLog(self._store, spender.run_id)
        self._voice = Voice(live)
        self._tries = Tries(engine, live, self._voice, self._log, list(unsettled))

    def _is_closed(self, target: Target) -> bool:
        return self._engine.breakers.is_open(Asked(target.account, target.name, self._spender.org_id))

    async def run(self, request: ModelRequest, place: Slot) -> None:
        """From the first attempt with this request, which is reserved and has its place at the provider's gate."""
        self._model = self._course.target.model
        await self._carry_out(
            self._answer(self._asking(1, self._course.target, request, self._spender.run_time), place)
        )

    async def resume(self) -> None:
        """From a new attempt, where a server that is gone left off."""
        await self._carry_out(self._answer(None, None))

    async def _carry_out(self, answering: Coroutine[Any, Any, None]) -> None:
        answered = asyncio.Event()
        storing = asyncio.create_task(self._store_events(answered))
        try:
            await answering
            self.live.finish_content()
            answered.set()
            await storing
            await self._until_sure()
            await self._log.written()
            await finish(self._engine, self.live, self._settled, self._tries.unsettled)
        except BaseException:
            self._log.close()
            storing.cancel()
            await asyncio.gather(storing, return_exceptions=True)
            raise

    async def _store_events(self, answered: asyncio.Event) -> None:
        """Stores what was sent since the last time, until the answer is there."""
        while not answered.is_set():
            try:
                await asyncio.wait_for(answered.wait(), _STORE_SECONDS)
            except TimeoutError:
                try:
                    if self.live.lease_holds():
                        await store_events(self._store, self.live)
                except LostRun:
                    self.live.stop("lost")
                    raise

    async def _until_sure(self) -> None:
        """Waits until the run is certainly still this server's: another one may have ended it, and it be deleted."""
        while not self.live.lease_holds():  # noqa: ASYNC110 - it is a clock. Who loses the lease cancels this
            await asyncio.sleep(_LEASE_LOOK_SECONDS)

    async def _answer(self, asking: Asking | None, place: Slot | None) -> None:
        """Asks until there is an answer, or nobody left to ask; notes in the run which it was."""
        try:
            asking = asking or await self._next(self._course.target)
            while not self._is_over(asking := await self._attempt(asking, place)):
                step = self._course.after(asking.error, asking.spoke)
                if step is None or (asking.spoke and self.live.size_bytes >= MOST_SAID_BYTES):
                    return self._fail(asking.failure or INTERNAL)
                target, seconds = step
                await self._tries.within(asyncio.sleep(seconds))
                if self._is_over(asking):
                    return
                asking, place = await self._next_possible(target), None
        except AppError as error:  # a budget, a limit, or a context that is too small
            self._fail(refusal(error))
        except RightLost:
            self.live.stop("cancelled")
            self.live.run["state"] = "cancelled"
        except LostRun:
            raise
        except Exception:
            log.exception("run failed", run_id=str(self._spender.run_id))
            self._fail_by_defect()

    async def _attempt(self, asking: Asking, place: Slot | None) -> Asking:
        """Returns the attempt that is to be judged: another one may have been made beside it."""
        if not self._plan.hedge_after_seconds or asking.number > 1:
            await self._tries.make(asking, place)
            return asking
        trying = asyncio.create_task(self._tries.make(asking, place))
        return await hedge(self._voice, self._tries, {trying: asking}, self._plan.hedge_after_seconds, self._beside)

    async def _beside(self) -> Asking | None:
        """Another attempt, reserved; none when there is nobody to ask, or something forbids it."""
        target = self._course.following
        try:
            asking = await self._next(target, beside=True) if target else None
        except AppError:
            return None  # the first attempt may still be made again
        except RightLost:
            self.live.stop("cancelled")
            return None
        self._course.pass_on()
        return asking

    def _is_over(self, asking: Asking) -> bool:
        """Whether there is an answer, or the run was stopped or has taken too long."""
        run, stopped = self.live.run, self.live.stop_state
        if asking.state == "completed":
            run["state"], run["finish_reason"] = "completed", asking.finish_reason
        elif stopped == "lost":
            raise LostRun
        elif stopped:
            run["state"], run["failure"] = stopped, INTERRUPTED if stopped == "interrupted" else None
        elif self._tries.timed_out:
            self._fail(TIMED_OUT)
        else:
            return False
        return True

    def _fail(self, failure: Failure) -> None:
        self.live.run["state"], self.live.run["failure"] = "failed", failure

    def _fail_by_defect(self) -> None:
        """Nobody pays for what the server did not get to account for."""
        self._fail(INTERNAL)
        known = {ending["number"] for ending in (*self._settled, *self._tries.unsettled)}
        self._tries.unsettled += [unpaid(number) for number in range(1, self._number + 1) if number not in known]

    def _asking(self, number: int, target: Target, request: ModelRequest, reserve_time: datetime) -> Asking:
        request = replace(request, model=target.name, request_id=f"{self._spender.run_id}/{number}")
        self._voice.go_on()
        continues = bool(self.live.contents)
        return Asking(number, target, request, self._voice.speak, reserve_time, continues=continues)

    def _asked_of(self, target: Target) -> ModelRequest:
        """What fits into the target's context of what was said, also by the attempts before. Raises ContextTooLong.

        Who goes on with an answer has to know it, and the question.
        """
        turns, said = list(self._request.turns), self.live.text
        if goes_on := bool(said.strip()):
            turns += [Turn("assistant", said), Turn("user", _GO_ON)]
        tokens = room(target, self._plan.max_output_tokens)
        return replace(self._request, turns=fit(turns, self._request.system, tokens, 3 if goes_on else 1))

    async def _next_possible(self, target: Target) -> Asking:
        """The next attempt: of this target or, where its context or a limit forbids that, of one that comes later."""
        while True:
            try:
                return await self._next(target)
            except BudgetExhausted:
                raise
            except AppError:
                later = self._course.pass_on()
                if later is None:
                    raise
                target = later

    async def _next(self, target: Target, *, beside: bool = False) -> Asking:
        """Ends the reservations of the attempts before, unless one goes on beside, and reserves for the next."""
        number, spender, engine = self._number + 1, self._spender, self._engine
        request = self._asked_of(target)
        if target.model != self._model:
            await self._plan.limits.take(target.model, estimate_input(request) + request.max_output_tokens)
        time = now()
        asking = self._asking(number, target, request, time)
        amount, expected = (
            ledger.reservation(target.model, count(request), request.max_output_tokens, time)
            for count in (bound_input, expect_input)
        )
        await self._settle([] if beside else list(self._tries.unsettled))

        async def reserve() -> None:
            async with self._as_owner() as tx:
                await rights.check(tx, spender)
                if number not in {entry.attempt for entry in await ledger.list_reserved(tx, spender.run_id)}:
                    await engine.ledger.reserve(
                        tx,
                        spender,
                        number,
                        target.model,
                        amount,
                        own_key=target.own_key,
                        time=time,
                        expected_nanos=expected.nanos,
                    )

        await retry_until_available(reserve)
        self._number, self._model = number, target.model
        return asking

    async def _settle(self, ended: Sequence[Ending]) -> None:
        """Ends the reservations of these attempts, each in a transaction of its own: see Ledger."""
        spender = self._spender
        for ending in ended:

            async def end(ending: Ending = ending) -> None:
                async with self._as_owner() as tx:
                    await end_reservation(tx, self._engine.ledger, spender.org_id, spender.run_id, ending)

            await retry_until_available(end)
            self._settled.append(ending)
            self._tries.unsettled.remove(ending)

    @asynccontextmanager
    async def _as_owner(self) -> AsyncIterator[WriteSession]:
        """A transaction during which nobody takes the run over. Raises LostRun when somebody has."""
        spender = self._spender
        async with self._engine.db.write(spender.org_id, spender.user_id) as tx:
            if not await claims.holds(tx, spender.run_id, self._engine.server_id):
                raise LostRun
            yield tx
