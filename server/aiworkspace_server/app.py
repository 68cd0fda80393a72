"""Servers: what they are built from is opened on one stack, started in order, and stopped in the reverse one."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc

from .auth.credentials import Credentials
from .auth.keys import read_keys
from .composition import Parts, build_parts, build_services
from .databases import Databases, databases, prepare
from .documents.content import Files
from .documents.objects import ObjectStores
from .embedding.build import build as build_embedding
from .events.feed import Feed
from .events.outbox import Outbox
from .kit.addresses import TrustedProxies
from .kit.condition import Condition
from .kit.connections import Connections
from .kit.health import Health
from .kit.jobs import Jobs
from .kit.limits import Counters
from .kit.metrics import Metrics
from .kit.mongo import ANSWER_SECONDS, Mongo
from .kit.platform import Platform
from .kit.postgres import Database
from .kit.probes import Ask, Probes
from .kit.tasks import Tasks
from .kit.tracing import make_tracing
from .listening import Tls, check_port, listen, read_certificate
from .llm.registry import Registry
from .policies.plan import Plans
from .rpc import add_services, build_server
from .runs.build import RunEngine
from .sampling import Sampler
from .schema import check_documents, check_schema
from .settings import Settings
from .usage.ledger import Ledger
from .workspaces.service import WorkspaceFinder

_LAST_SECONDS = 2.0  # for streams that are in progress when the last run and the last unary call have ended
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class App:
    """A server that takes calls."""

    address: str  # host:port
    db: Database
    mongo: Mongo
    registry: Registry
    engine: RunEngine
    plans: Plans
    credentials: Credentials
    workspaces: WorkspaceFinder
    tasks: Tasks
    tls: Tls | None
    server: grpc.aio.Server
    metrics: Metrics

    @property
    def ledger(self) -> Ledger:
        return self.engine.deps.ledger


def check(settings: Settings) -> None:
    """Raise an error for keys, certificates and addresses that cannot be used, before anything is started."""
    read_keys(settings)
    read_certificate(settings)
    check_port(settings.host, settings.port)


@asynccontextmanager
async def running(settings: Settings, *, migrating: bool, condition: Condition | None = None) -> AsyncIterator[App]:
    """Run a server, with embedded databases if the settings name none, until the context ends."""
    check(settings)
    async with databases(settings) as where:
        await prepare(settings, where, migrating=migrating)
        async with serving(settings, where, condition=condition) as app:
            yield app


@asynccontextmanager
async def serving(
    settings: Settings, where: Databases, *, sharing_port: bool = False, condition: Condition | None = None
) -> AsyncIterator[App]:
    """Run a server on databases that are up and migrated."""
    async with AsyncExitStack() as stack:
        base = await _open(stack, settings, where)
        yield await _start(stack, base, condition or Condition(), sharing_port=sharing_port)


@asynccontextmanager
async def working(settings: Settings, where: Databases, condition: Condition) -> AsyncIterator[None]:
    """Work the jobs of the queue, and serve no calls, until the context ends."""
    async with AsyncExitStack() as stack:
        base = await _open(stack, settings, where)
        build_services(base.platform, base.parts)  # which declare their jobs
        bus, manager = base.parts.engine.bus, base.parts.engine.manager
        await stack.enter_async_context(bus.running(manager.stop))
        base.platform.db.before_commit = (Outbox(base.parts.webhooks.fan_out).before_commit,)
        await stack.enter_async_context(base.platform.jobs.running(settings.shutdown_seconds))
        await stack.enter_async_context(base.sampler(condition).running(works_jobs=True))
        condition.unready = ""
        yield
        condition.unready = "stopping"


@dataclass(frozen=True, slots=True)
class _Base:
    """What is built and open in every process, before it works."""

    platform: Platform
    parts: Parts
    mongo: Mongo
    registry: Registry

    def sampler(self, condition: Condition) -> Sampler:
        platform, engine, providers = self.platform, self.parts.engine, self.registry.providers
        return Sampler(platform.metrics, condition, platform.db, self.mongo, platform.jobs, engine, providers)


async def _open(stack: AsyncExitStack, settings: Settings, where: Databases) -> _Base:
    keys = read_keys(settings)
    tracing = make_tracing(settings)
    stack.push_async_callback(tracing.aclose)
    mongo = Mongo(where.mongo_uri, ANSWER_SECONDS)
    stack.push_async_callback(mongo.close)
    connections = Connections.divide(settings.postgres_pool)
    db = Database(where.url, where.session_url, connections)
    stack.push_async_callback(db.close)
    await check_schema(db, embedded=settings.embedded)
    await check_documents(mongo)
    counters = Counters(where.redis_url)
    stack.push_async_callback(counters.close)
    stores = ObjectStores(settings.document_store)
    if stores.current:
        await stores.current.check()
    registry = await stack.enter_async_context(Registry(settings))
    jobs = Jobs(where.direct_url, connections, tracing)
    platform = Platform.make(settings, db, jobs, counters, Metrics(), tracing)
    stack.push_async_callback(platform.tasks.close)
    embedding = build_embedding(settings)
    stack.push_async_callback(embedding.aclose)
    parts = build_parts(platform, keys, mongo, Files(mongo, stores), registry, embedding, where)
    stack.push_async_callback(parts.search.aclose)
    stack.callback(parts.documents.egress.close)
    stack.callback(parts.webhooks.egress.close)
    stack.callback(parts.auth.credentials.passwords.close)
    stack.push_async_callback(parts.audit.recorder.close)
    return _Base(platform, parts, mongo, registry)


async def _start(stack: AsyncExitStack, base: _Base, condition: Condition, *, sharing_port: bool) -> App:
    """Start runs, jobs and the server, in this order."""
    platform, parts = base.platform, base.parts
    settings, db, jobs, engine = platform.settings, platform.db, platform.jobs, parts.engine
    recorder = parts.audit.recorder
    await stack.enter_async_context(engine.running())
    # The audit log comes last: its lock is that of all changes of the organization.
    db.before_commit = (Outbox(parts.webhooks.fan_out).before_commit, recorder.before_commit)
    server = build_server(
        parts.methods,
        platform.metrics,
        platform.tracing,
        TrustedProxies(settings.trusted_proxies or ()),
        parts.auth.credentials.authenticator,
        platform.limits,
        recorder,
        parts.access,
        sharing_port=sharing_port,
    )
    health = add_services(server, build_services(platform, parts))
    at_work = jobs.running(settings.shutdown_seconds) if settings.jobs_in_server else jobs.enqueuing()
    await stack.enter_async_context(at_work)
    await stack.enter_async_context(base.sampler(condition).running(works_jobs=settings.jobs_in_server))
    probes = _probes(base, health)
    await health.tell(probes.up)
    await stack.enter_async_context(probes.running())
    certificate = read_certificate(settings)
    tls = Tls(certificate) if certificate else None
    address = engine.deps.lease.address = listen(server, settings, tls)
    app = App(
        address,
        db,
        base.mongo,
        base.registry,
        engine,
        parts.policies.plans,
        parts.auth.credentials,
        parts.workspaces,
        platform.tasks,
        tls,
        server,
        platform.metrics,
    )
    await server.start()
    condition.unready = ""
    stack.push_async_callback(_stop, app, health, condition, jobs, parts.events.feed, settings, platform.metrics)
    return app


def _probes(base: _Base, health: Health) -> Probes:
    counters, lease, metrics = base.platform.counters, base.parts.engine.deps.lease, base.platform.metrics
    stores: dict[str, Ask] = {"postgres": base.platform.db.ping, "mongo": base.mongo.ping}
    if counters.has_redis:
        stores["redis"] = counters.ping

    async def tell(up: Mapping[str, bool]) -> None:
        for store in stores:
            metrics.store_up.labels(store).set(up[store])
        await health.tell(up)

    return Probes({**stores, "lease": lease.check}, tell)


async def _stop(
    app: App, health: Health, condition: Condition, jobs: Jobs, feed: Feed, settings: Settings, metrics: Metrics
) -> None:
    """Say that the server is not ready and serve on for a while. Then refuse calls, let runs and calls end, stop."""
    condition.unready = "stopping"
    app.engine.manager.draining = True
    if not condition.replaced:
        await health.drain()
        await asyncio.sleep(settings.drain_seconds)
    jobs.stop()
    feed.close()
    manager, seconds = app.engine.manager, settings.shutdown_seconds
    stopping = asyncio.create_task(app.server.stop(seconds + manager.interrupt_seconds))
    await manager.close(seconds)
    while metrics.unary_calls and not stopping.done():
        await asyncio.wait([stopping], timeout=_POLL_SECONDS)
    await app.server.stop(_LAST_SECONDS)  # streams that would never end
    await stopping
