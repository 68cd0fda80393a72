"""The composition root: builds the domains from the bottom up, and opens everything on one stack."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import grpc

from .access.authorize import Access
from .access.build import build as build_access
from .accounts.build import build as build_accounts
from .accounts.build import build_mails
from .accounts.jobs import TokenMails
from .accounts.service import end_mailed
from .admin.build import build as build_admin
from .audit.build import Audit
from .audit.build import build as build_audit
from .auth.authority import actor_of
from .auth.build import Auth
from .auth.build import build as build_auth
from .auth.credentials import Credentials
from .auth.keys import Keys, read_keys
from .budgets.build import build as build_budgets
from .budgets.build import build_alerts
from .budgets.service import count_new_org
from .chat.build import Chat
from .chat.build import build as build_chat
from .chat.build import finders as chat_finders
from .data_life.build import build as build_data
from .databases import Databases, databases, prepare
from .documents.build import Documents
from .documents.build import build as build_documents
from .documents.build import finders as document_finders
from .documents.content import Files
from .documents.objects import ObjectStores
from .documents.store import are_collections
from .embedding.build import Embedding
from .embedding.build import build as build_embedding
from .erasure.build import build as build_erasure
from .events.build import Events
from .events.build import build as build_events
from .events.feed import Feed
from .events.outbox import Outbox
from .kit.addresses import TrustedProxies
from .kit.condition import Condition
from .kit.connections import Connections
from .kit.contract import Method
from .kit.health import Health
from .kit.jobs import Jobs
from .kit.limits import Counters
from .kit.metrics import Metrics
from .kit.mongo import Mongo
from .kit.platform import Platform
from .kit.postgres import Database
from .kit.probes import Ask, Probes
from .kit.stores import retry_until_available
from .kit.tasks import Tasks
from .kit.tracing import make_tracing
from .listening import Tls, check_port, listen, read_certificate
from .llm.registry import Registry
from .orgs import service as orgs
from .orgs.build import build as build_orgs
from .orgs.servicer import RightsLost
from .policies.build import Policies
from .policies.build import build as build_policies
from .policies.plan import Plans
from .rpc import Services, add_services, build_server, read_surface
from .runs.build import RunEngine
from .runs.build import build as build_runs
from .runs.cancellation import Cancellation
from .sampling import Sampler
from .schema import check_documents, check_schema
from .search.build import build as build_search
from .search.open_questions import OpenQuestions
from .search.query import Search
from .service_accounts.build import build as build_service_accounts
from .service_accounts.service import revoke_made_by
from .settings import Settings
from .teams.build import build as build_teams
from .usage.build import Usage
from .usage.build import build as build_usage
from .usage.ledger import Ledger
from .webhooks.build import Webhooks
from .webhooks.build import build as build_webhooks
from .workspaces.build import build as build_workspaces
from .workspaces.members import check_may_take_all
from .workspaces.service import WorkspaceFinder

_LAST_SECONDS = 2.0  # for calls that are in progress when the last run has ended


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


@dataclass(frozen=True, slots=True)
class _Parts:
    """The domains on which others depend."""

    mongo: Mongo
    policies: Policies
    usage: Usage
    mails: TokenMails
    auth: Auth
    audit: Audit
    events: Events
    webhooks: Webhooks
    workspaces: WorkspaceFinder
    access: Access
    methods: Mapping[str, Method]
    engine: RunEngine
    chat: Chat
    documents: Documents
    search: Search


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
        _services(base.platform, base.parts)  # which declare their jobs
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
    parts: _Parts
    mongo: Mongo
    registry: Registry

    def sampler(self, condition: Condition) -> Sampler:
        platform, engine, providers = self.platform, self.parts.engine, self.registry.providers
        return Sampler(platform.metrics, condition, platform.db, self.mongo, platform.jobs, engine, providers)


async def _open(stack: AsyncExitStack, settings: Settings, where: Databases) -> _Base:
    keys = read_keys(settings)
    tracing = make_tracing(settings)
    stack.push_async_callback(tracing.aclose)
    mongo = Mongo(where.mongo_uri)
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
    parts = _build(platform, keys, mongo, Files(mongo, stores), registry, embedding, where)
    stack.push_async_callback(parts.search.aclose)
    stack.callback(parts.documents.egress.close)
    stack.callback(parts.webhooks.egress.close)
    stack.callback(parts.auth.credentials.passwords.close)
    stack.push_async_callback(parts.audit.recorder.close)
    return _Base(platform, parts, mongo, registry)


def _build(
    platform: Platform,
    keys: Keys,
    mongo: Mongo,
    files: Files,
    registry: Registry,
    embedding: Embedding,
    where: Databases,
) -> _Parts:
    """Build the domains from the bottom up. A domain that needs a higher one gets a callable of it."""
    settings, db, jobs = platform.settings, platform.db, platform.jobs
    policies = build_policies(platform, registry)
    build_alerts(db, jobs, platform.mailer)
    usage = build_usage(platform)
    mails = build_mails(settings, db, jobs, platform.mailer)
    auth = build_auth(platform, keys, mails.ask_verification, end_mailed)
    audit = build_audit(platform, actor_of)
    events = build_events(platform)
    webhooks = build_webhooks(platform)
    workspaces = WorkspaceFinder(db)
    access = Access(
        db,
        auth.credentials.authenticator,
        {
            "workspace_id": workspaces.find,
            **chat_finders(mongo, workspaces),
            **document_finders(db, workspaces),
        },
        verified_email_required=settings.verified_email_required,
    )
    search = build_search(settings, db, embedding.embedders, usage.ledger, platform.tasks)
    OpenQuestions(db, usage.ledger).register(jobs)
    documents = build_documents(platform, mongo, files, embedding, search, usage.ledger, where.owner_url)
    engine = build_runs(platform, mongo, usage.ledger, policies.plans, documents.access, where.redis_url)
    chat = build_chat(platform, mongo, registry, policies, engine, access.authorize_again)
    methods = read_surface(access)
    return _Parts(
        mongo,
        policies,
        usage,
        mails,
        auth,
        audit,
        events,
        webhooks,
        workspaces,
        access,
        methods,
        engine,
        chat,
        documents,
        search,
    )


def _services(platform: Platform, parts: _Parts) -> Services:
    """Build the gRPC server."""
    auth, access, methods, policies = parts.auth, parts.access, parts.methods, parts.policies
    erasure = build_erasure(platform, parts.chat.eraser, parts.documents.eraser)
    rights_lost = _rights_lost(parts.workspaces, parts.engine.cancellation, platform.tasks)
    return Services(
        auth=auth.servicer,
        accounts=build_accounts(
            platform,
            auth,
            parts.mails,
            give_up=orgs.give_up_address,
            leave=orgs.leave_all,
            left=rights_lost,
            erase=erasure.ask_account,
        ),
        orgs=build_orgs(
            platform,
            auth,
            created=partial(count_new_org, allowance_nanos=platform.settings.allowance_nanos),
            rights_lost=rights_lost,
            erase=erasure.ask_org,
            check_places=check_may_take_all,
            revoke_made=revoke_made_by,
        ),
        teams=build_teams(platform, parts.workspaces, rights_lost=rights_lost),
        access=build_access(platform, auth, access, methods, rights_lost=rights_lost),
        service_accounts=build_service_accounts(platform, auth, rights_lost=rights_lost, erase=erasure.ask_account),
        workspaces=build_workspaces(
            platform,
            policies.providers,
            parts.workspaces,
            rights_lost=rights_lost,
            erase=erasure.ask_workspace,
            are_collections=are_collections,
        ),
        models=policies.servicer,
        chat=parts.chat.servicer,
        documents=parts.documents.servicer,
        usage=parts.usage.servicer,
        budgets=build_budgets(platform, policies.plans, methods),
        audit=parts.audit.servicer,
        admin=build_admin(platform, auth, rights_lost=rights_lost),
        data=build_data(platform, parts.mongo, parts.chat.eraser, parts.documents.eraser),
        events=parts.events.servicer,
        webhooks=parts.webhooks.servicer,
    )


def _rights_lost(workspaces: WorkspaceFinder, cancellation: Cancellation, tasks: Tasks) -> RightsLost:
    """Return the function to call after a committed change that took rights away."""

    async def rights_lost(org_id: UUID) -> None:
        """Cancel the runs whose owners have lost the right to them.

        If the process dies before this, the servers of those runs stop them within a second.
        """
        workspaces.forget_all()
        await tasks.complete(retry_until_available(lambda: cancellation.cancel_unentitled(org_id)))

    return rights_lost


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
    health = add_services(server, _services(platform, parts))
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
    stack.push_async_callback(_stop, app, health, condition, jobs, parts.events.feed, settings)
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


async def _stop(app: App, health: Health, condition: Condition, jobs: Jobs, feed: Feed, settings: Settings) -> None:
    """Say that the server is not ready and serve on for a while. Then refuse calls, let runs finish, and stop."""
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
    await app.server.stop(_LAST_SECONDS)  # streams that would never end
    await stopping
