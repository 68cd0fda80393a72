"""Puts conversations and runs together."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from ..access.authorize import FindScope
from ..kit.concurrency import ConcurrencyLimiter
from ..kit.context import Call
from ..kit.mongo import Mongo
from ..kit.platform import Platform
from ..llm.breaker import Breakers
from ..llm.registry import Registry
from ..policies.build import Policies
from ..usage.ledger import Ledger
from ..workspaces.service import WorkspaceFinder
from .engine import Engine
from .erasure import ChatEraser
from .leases import Lease
from .recovery import Recovery
from .relay import Relay
from .runs import Runs
from .service import ChatFinder
from .servicer import ChatServicer
from .stops import Stops
from .upkeep import Upkeep


@dataclass(frozen=True, slots=True)
class Chat:
    servicer: ChatServicer
    engine: Engine
    runs: Runs
    relay: Relay
    recovery: Recovery
    stops: Stops
    eraser: ChatEraser

    @asynccontextmanager
    async def running(self, shutdown_seconds: float) -> AsyncIterator[None]:
        """Hold the lease of this process. On exit runs get `shutdown_seconds` to finish."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.engine.lease.end)
            alone = await self.engine.lease.begin()
            await stack.enter_async_context(self.relay.running(self.runs.stop))
            await stack.enter_async_context(Upkeep(self.engine, self.runs, self.recovery).running())
            stack.push_async_callback(self.runs.close, shutdown_seconds)
            if alone:  # while the lease is renewed, however much there is to take over
                await self.recovery.take_over()
            yield


def build(
    platform: Platform,
    mongo: Mongo,
    redis_url: str | None,
    registry: Registry,
    policies: Policies,
    ledger: Ledger,
    authorize_again: Callable[[Call], Awaitable[None]],
) -> Chat:
    settings, db = platform.settings, platform.db
    lease, relay = Lease(db, shared=redis_url is not None), Relay(redis_url)
    limiter = ConcurrencyLimiter(settings.provider_concurrency, settings.org_concurrency, settings.provider_queue)
    engine = Engine(db, mongo, ledger, Breakers(), limiter, lease, settings.run_seconds)
    runs = Runs(engine, relay, platform.tasks)
    stops = Stops(db, runs, relay)
    eraser = ChatEraser(db, mongo, stops, relay)
    servicer = ChatServicer(
        db,
        mongo,
        registry,
        policies.providers,
        policies.plans,
        runs,
        stops,
        authorize_again,
        eraser,
        platform.pages,
        platform.idempotency,
    )
    return Chat(servicer, engine, runs, relay, Recovery(engine, policies.plans, runs, relay), stops, eraser)


def finders(mongo: Mongo, workspaces: WorkspaceFinder) -> dict[str, FindScope]:
    """Return what finds the scope of a conversation or run, by the name of the request field."""
    finder = ChatFinder(mongo, workspaces)
    return {"conversation_id": finder.find_conversation, "run_id": finder.find_run}
