"""Runs: reserved, started and kept outside of the calls that start and follow them."""

import asyncio
import time
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from typing import Any, TypeVar
from uuid import UUID

import structlog

from ..kit.concurrency import QueueFull, Slot
from ..kit.errors import Aborted, AppError, InvalidArgument, RateLimited, Unavailable
from ..kit.stores import retry_until_available
from ..kit.tasks import Tasks
from ..llm.base import ModelRequest
from ..policies.plan import Target
from . import claims
from .context import ContextTooLong
from .engine import Engine, LostRun
from .execution import Execution
from .live import LiveRun
from .mirrors import Mirrors
from .models import Run
from .opening import Opening, Question, withdraw
from .pace import Pace
from .relay import Relay
from .rights import RightLost
from .store import ChatStore

HEARTBEAT_SECONDS = 15
_LOOK_SECONDS, _MOST_LOOK_SECONDS = 0.02, 0.5  # between looks whether a run of another process has ended
_UNDOING_SECONDS = 1.0  # that a caller waits for what a failure left behind to be taken back

Result = TypeVar("Result")
log = structlog.get_logger("runs")


class Runs:
    """The runs of this process, and those of others that it follows."""

    ending_seconds = 3.0  # in which an interrupted run has to be stored; otherwise another process or start does it

    def __init__(self, engine: Engine, relay: Relay, tasks: Tasks) -> None:
        self._engine = engine
        self._db = engine.db
        self._mongo = engine.mongo
        self._lease = engine.lease
        self._relay = relay
        self.pace = Pace()
        self.mirrors = Mirrors(engine.db, engine.mongo, relay)
        self._starting: dict[UUID, str] = {}  # "", or what was heard meanwhile: cancelled, lost
        self._live: dict[UUID, LiveRun] = {}
        self._executions: dict[UUID, asyncio.Task[None]] = {}
        self._tasks = tasks
        self.closing = False
        self._ticker = asyncio.create_task(self._tick())

    def find(self, run_id: UUID) -> LiveRun | None:
        return self._live.get(run_id)

    def is_starting(self, run_id: UUID) -> bool:
        return run_id in self._starting

    async def start(self, question: Question) -> UUID:
        """Starts a run and returns its id; that of the first one when the request_id repeats.

        A caller that goes away in the meantime does not leave half a run behind.
        """
        if self.closing:
            raise Unavailable("The server is shutting down. Try again.")
        if not self._lease.holds():
            raise Unavailable
        return await self.see_through(self._start(question))

    async def see_through(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Does the work to its end, also when the caller goes away."""
        return await self._tasks.complete(work)

    def stop(self, run_ids: Iterable[UUID]) -> None:
        """Stops those of the runs that are in progress in this process."""
        for run_id in run_ids:
            if live := self._live.get(run_id):
                live.stop("cancelled")
            elif run_id in self._starting:
                self._starting[run_id] = self._starting[run_id] or "cancelled"

    def show(self) -> None:
        """The lease holds: readers may have what was kept back while it did not."""
        for live in self._live.values():
            live.show()

    def lose(self) -> None:
        """What is in progress is another process's now: nothing more is said, stored or settled of it."""
        for run_id in self._starting:
            self._starting[run_id] = "lost"
        for run_id, live in self._live.items():
            live.break_off()
            self._executions[run_id].cancel()

    async def wait_for_end(self, org_id: UUID, run_id: UUID) -> None:
        """Waits until a run, of whatever process, has ended and is settled."""
        if live := self._live.get(run_id):
            await live.ended.wait()
            if live.concluded:
                return
        seconds = _LOOK_SECONDS
        while await self._is_open(org_id, run_id):
            await asyncio.sleep(seconds)
            seconds = min(seconds * 1.2, _MOST_LOOK_SECONDS)

    async def _is_open(self, org_id: UUID, run_id: UUID) -> bool:
        async with self._db.read(org_id) as tx:
            return await claims.is_open(tx, run_id)

    async def close(self, grace_seconds: float) -> None:
        """Lets runs finish for a while, then interrupts those that are left: what was said is stored and settled."""
        self.closing = True
        await self._wait(grace_seconds)
        for live in list(self._live.values()):
            live.stop("interrupted")
        await self._wait(self.ending_seconds)
        self.mirrors.close()
        self._ticker.cancel()
        await asyncio.gather(self._ticker, return_exceptions=True)
        await self._tasks.close()

    async def _wait(self, seconds: float) -> None:
        """Until nothing is in progress here, and nobody follows anything from elsewhere; or for so long."""
        end = time.monotonic() + seconds
        following = asyncio.create_task(self.mirrors.wait(seconds))
        while (left := end - time.monotonic()) > 0 and (
            busy := {each for each in (following, *self._tasks.pending) if not each.done()}
        ):
            await asyncio.wait(busy, timeout=left)  # what was starting goes on in a task of its own
        following.cancel()

    async def _start(self, question: Question) -> UUID:
        opening = Opening(self._engine, question)
        try:
            request, place = await self._admit(opening, question)
        except AppError:
            if earlier := await opening.find_earlier():
                return earlier
            raise
        try:
            return await self._start_in(place, opening, question, request)
        except BaseException:
            place.release()
            raise

    async def _admit(self, opening: Opening, question: Question) -> tuple[ModelRequest, Slot]:
        """What to ask the first model that has room for it, and a place at its provider's gate."""
        refused: AppError | None = None
        for target in opening.plan.targets:
            try:
                place = self._enter(target, question.org_id)
                try:
                    request = await opening.admit(target)
                except BaseException:
                    place.release()
                    raise
            except (ContextTooLong, RateLimited, Unavailable) as error:
                refused = refused or error
            else:
                opening.begin_with(target)
                return request, place
        assert refused, "a plan has targets"
        raise refused

    def _enter(self, target: Target, org_id: UUID) -> Slot:
        """A place at the gate of the provider."""
        try:
            return self._engine.limiter.acquire(target.provider.name, org_id)
        except QueueFull:
            raise Unavailable("Too many answers are being waited for already. Try again later.", 5) from None

    async def _start_in(self, place: Slot, opening: Opening, question: Question, request: ModelRequest) -> UUID:
        self._starting[opening.run_id] = ""
        try:
            if earlier := await opening.reserve(request):
                place.release()
                return earlier
            await opening.store()
            if not self._is_own(opening.run_id):
                raise Unavailable
        except (Aborted, InvalidArgument, RateLimited, RightLost):
            raise  # nothing was reserved
        except BaseException:
            await self._undo(opening)
            raise
        finally:
            heard = self._starting.pop(opening.run_id)
        live = LiveRun.restore(question.org_id, opening.run, self.pace, [opening.first])
        if heard:
            live.stop(heard)
        whole = replace(request, turns=question.turns)  # for models with a larger context
        execution = Execution(self._engine, live, opening.spender, opening.plan, whole)
        task = self._carry_out(live, execution.run(request, place))
        task.add_done_callback(lambda _: place.release())  # also when it never began
        return opening.run_id

    def _is_own(self, run_id: UUID) -> bool:
        """Whether a run that is being started is still this process's: otherwise another may have withdrawn it."""
        return self._starting[run_id] != "lost" and self._lease.holds()

    async def _undo(self, opening: Opening) -> None:
        """Takes back what is left of a run that could not be stored, unless it may be another process's by now."""
        spender = opening.spender
        if self._is_own(opening.run_id):
            undoing = self._tasks.spawn(withdraw(self._engine, spender.org_id, opening.run_id, spender.conversation_id))
            await asyncio.wait({undoing}, timeout=_UNDOING_SECONDS)  # so that the call can be repeated at once
        else:
            self._tasks.spawn(self._clean_up(spender.org_id, opening.run, self._lease.id))

    async def _clean_up(self, org_id: UUID, run: Run, server_id: UUID) -> None:
        """Leaves the run to whoever ends it, then removes what was stored too late for that."""

        async def clean_up() -> None:
            await self._give_up(org_id, run["_id"], server_id)
            await self.wait_for_end(org_id, run["_id"])
            found = await ChatStore(self._mongo, org_id).find_run(run["_id"])
            if found is None or found["state"] == "running":
                await withdraw(self._engine, org_id, run["_id"], run["conversation_id"])

        await retry_until_available(clean_up)

    def resume(self, execution: Execution, stream: int | None = None) -> None:
        """Goes on with a run whose server is gone. `stream`: which of its streams in the relay is this process's."""
        self._carry_out(execution.live, execution.resume(), stream)

    def _carry_out(self, live: LiveRun, work: Coroutine[Any, Any, None], stream: int | None = 0) -> asyncio.Task[None]:
        """Makes a run live in this process, as the one that its claim names, while the work goes on."""
        live.lease_holds = self._lease.holds
        self._live[live.run_id] = live
        self._relay.add(live, stream)
        task = self._executions[live.run_id] = self._tasks.spawn(self._execute(live, work))
        task.add_done_callback(lambda _: self._forget(live))
        return task

    async def _execute(self, live: LiveRun, work: Coroutine[Any, Any, None]) -> None:
        server_id = self._lease.id
        try:
            await work
        except Exception as error:
            if isinstance(error, LostRun):
                log.warning("run lost to another server", run_id=str(live.run_id))
            else:
                log.exception("run could not be ended properly", run_id=str(live.run_id))
            await retry_until_available(lambda: self._give_up(live.org_id, live.run_id, server_id))

    async def _give_up(self, org_id: UUID, run_id: UUID, server_id: UUID) -> None:
        async with self._db.write(org_id) as tx:
            await claims.give_up(tx, run_id, server_id)

    def _forget(self, live: LiveRun) -> None:
        del self._live[live.run_id], self._executions[live.run_id]
        live.end()

    async def _tick(self) -> None:
        """Four times a second, so that the pace follows the load; every fourth time readers may get a heartbeat."""
        ticks = 0
        while True:
            await asyncio.sleep(0.25)
            self.pace.measure()
            ticks += 1
            if ticks % 4 == 0:
                for live in list(self._live.values()):
                    live.beat(HEARTBEAT_SECONDS)
                self.mirrors.beat(HEARTBEAT_SECONDS)
