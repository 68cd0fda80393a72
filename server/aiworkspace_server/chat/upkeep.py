"""What a process does again and again: renew its lease, stop what it is asked to, take over what dead ones left."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from ..kit.stores import STORE_UNAVAILABLE
from . import claims
from .engine import Engine
from .leases import DatabaseInUseError
from .recovery import Recovery
from .runs import Runs

_RENEW_SECONDS = 1.5
_TEND_SECONDS = 0.8  # until a run is stopped whose owner lost the right, or whose cancellation message was lost
_AGAIN_SECONDS = 0.3  # after the database gave no answer
_AWAY: tuple[type[Exception], ...] = (*STORE_UNAVAILABLE, DatabaseInUseError, TimeoutError)

log = structlog.get_logger("upkeep")


class Upkeep:
    def __init__(self, engine: Engine, runs: Runs, recovery: Recovery) -> None:
        self._db = engine.db
        self._lease = engine.lease
        self._limiter = engine.limiter
        self._runs = runs
        self._recovery = recovery

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Two tasks, so that the lease waits for nothing else."""
        tasks = [
            asyncio.create_task(_every(seconds, work))
            for seconds, work in ((_RENEW_SECONDS, self._renew), (_TEND_SECONDS, self._tend))
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew(self) -> None:
        if await self._lease.renew():
            self._runs.show()
            return
        log.error("the lease was taken away: what was in progress here is ended elsewhere")
        self._runs.lose()
        await self._lease.replace()

    async def _tend(self) -> None:
        if not self._lease.holds():
            return
        async with self._db.read() as tx:
            stopped = await claims.list_stopped(tx, self._lease.id)
            servers = await claims.count_servers(tx)
        self._limiter.resize(servers)
        self._runs.stop(stopped)
        if self._lease.steady and not self._runs.closing:
            await self._recovery.take_over()


async def _every(period: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        seconds = period
        try:
            await work()
        except _AWAY as error:
            log.warning("not done, trying again", work=work.__name__, error=type(error).__name__)
            seconds = _AGAIN_SECONDS
        except Exception:
            log.exception("not done", work=work.__name__)
        await asyncio.sleep(seconds)
