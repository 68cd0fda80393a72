"""Puts the engine of runs together."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from ..kit.concurrency import ConcurrencyLimiter
from ..kit.mongo import Mongo
from ..kit.platform import Platform
from ..llm.breaker import Breakers
from ..policies.plan import Plans
from ..usage.ledger import Ledger
from .cancellation import Cancellation
from .citations.sources import DocumentAccess
from .deps import RunDeps
from .group_commit import GroupCommit
from .leases import Lease
from .manager import RunManager
from .recovery.reconciler import Reconciler
from .recovery.takeover import Takeover
from .streams.coalescer import Load
from .streams.redis import RedisEventBus


@dataclass(frozen=True, slots=True)
class RunEngine:
    """Executes runs while `running`."""

    deps: RunDeps
    manager: RunManager
    cancellation: Cancellation
    bus: RedisEventBus
    takeover: Takeover
    reconciler: Reconciler

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hold the lease and execute runs until the context ends, starting with those that dead servers left."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.deps.lease.end)
            alone = await self.deps.lease.begin()
            await stack.enter_async_context(self.bus.running(self.manager.stop))
            await stack.enter_async_context(self.reconciler.running())
            await stack.enter_async_context(self.manager.running())
            if alone:  # while the lease is renewed, however much there is to take over
                await self.takeover.take_over_orphans()
            yield


def build(
    platform: Platform, mongo: Mongo, ledger: Ledger, plans: Plans, documents: DocumentAccess, redis_url: str | None
) -> RunEngine:
    settings, db = platform.settings, platform.db
    deps = RunDeps(
        db=db,
        mongo=mongo,
        ledger=ledger,
        breakers=Breakers(),
        limiter=ConcurrencyLimiter(settings.provider_concurrency, settings.org_concurrency, settings.provider_queue),
        lease=Lease(db, shared=redis_url is not None),
        load=Load(),
        tasks=platform.tasks,
        group_commit=GroupCommit(db, mongo),
        documents=documents,
        metrics=platform.metrics,
        tracing=platform.tracing,
        run_seconds=settings.run_seconds,
    )
    bus = RedisEventBus(redis_url)
    manager = RunManager(deps, bus)
    takeover = Takeover(deps, plans, manager, bus)
    reconciler = Reconciler(deps, manager, takeover)
    cancellation = Cancellation(db, manager, bus)
    return RunEngine(deps, manager, cancellation, bus, takeover, reconciler)
