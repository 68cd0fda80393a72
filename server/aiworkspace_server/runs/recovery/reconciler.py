"""Background loops of a server: renew the lease, apply cancellations, take over orphaned runs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from ...kit.stores import STORE_UNAVAILABLE
from ...kit.tasks import cancel_all
from .. import claims
from ..deps import RunDeps
from ..leases import DatabaseInUseError
from ..manager import RunManager
from .takeover import Takeover

_RENEW_SECONDS = 1.5
_RECONCILE_SECONDS = 0.8  # until a run is stopped whose owner lost the right, or whose cancellation message was lost
_RETRY_SECONDS = 0.3  # after the database gave no answer
_UNAVAILABLE: tuple[type[Exception], ...] = (*STORE_UNAVAILABLE, DatabaseInUseError, TimeoutError)

log = structlog.get_logger("reconciler")


class Reconciler:
    def __init__(self, deps: RunDeps, manager: RunManager, takeover: Takeover) -> None:
        self._deps = deps
        self._manager = manager
        self._takeover = takeover

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work until the context ends, in two tasks, so that nothing delays the lease."""
        tasks = [
            asyncio.create_task(_repeat(seconds, work))
            for seconds, work in ((_RENEW_SECONDS, self._renew_lease), (_RECONCILE_SECONDS, self._reconcile))
        ]
        try:
            yield
        finally:
            await cancel_all(tasks)

    async def _renew_lease(self) -> None:
        if await self._deps.lease.renew(self._manager.run_count, draining=self._manager.draining):
            self._manager.on_lease_renewed()
            return
        log.error("lease_lost")
        self._manager.on_lease_lost()
        await self._deps.lease.replace()

    async def _reconcile(self) -> None:
        if not self._deps.lease.holds():
            return
        async with self._deps.db.read() as tx:
            stopped = await claims.list_stopped(tx, self._deps.server_id)
            servers = await claims.count_servers(tx)
        self._deps.limiter.resize(servers)
        self._manager.stop(stopped)
        if self._deps.lease.steady and not self._manager.closing:
            await self._takeover.take_over_orphans()


async def _repeat(period: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        seconds = period
        try:
            await work()
        except _UNAVAILABLE as error:
            name = type(error).__name__
            log.warning("maintenance_step_failed", step=work.__name__, retry_seconds=_RETRY_SECONDS, error=name)
            seconds = _RETRY_SECONDS
        except Exception:
            log.exception("maintenance_step_failed", step=work.__name__)
        await asyncio.sleep(seconds)
