"""The composition root: builds the domains from the bottom up, and opens everything on one stack."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import grpc
from grpc_health.v1 import health

from .access.authorize import Access
from .access.build import build as build_access
from .accounts.build import build as build_accounts
from .accounts.build import build_mails
from .accounts.jobs import TokenMails
from .accounts.service import end_mailed
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
from .kit.contract import Method
from .kit.jobs import Jobs
from .kit.limits import Counters
from .kit.mongo import Mongo
from .kit.platform import Platform
from .kit.postgres import Database
from .kit.stores import retry_until_available
from .kit.tasks import Tasks
from .listening import Tls, check_port, listen, read_certificate
from .llm.registry import Registry
from .migrate import check_schema
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
from .runs.manager import RunManager
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

    @property
    def ledger(self) -> Ledger:
        return self.engine.deps.ledger


@dataclass(frozen=True, slots=True)
class _Parts:
    """The domains on which others depend."""

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
async def running(settings: Settings, *, migrating: bool) -> AsyncIterator[App]:
    """Run a server, with embedded databases if the settings name none, until the context ends."""
    check(settings)
    async with databases(settings) as where:
        await prepare(settings, where, migrating=migrating)
        async with serving(settings, where) as app:
            yield app


@asynccontextmanager
async def serving(settings: Settings, where: Databases, *, sharing_port: bool = False) -> AsyncIterator[App]:
    """Run a server on databases that are up and migrated."""
    keys = read_keys(settings)
    async with AsyncExitStack() as stack:
        mongo = Mongo(where.mongo_uri)
        stack.push_async_callback(mongo.close)
        db = Database(where.url)
        stack.push_async_callback(db.close)
        await check_schema(db, embedded=settings.embedded)
        counters = Counters(where.redis_url)
        stack.push_async_callback(counters.close)
        stores = ObjectStores(settings.document_store)
        if stores.current:
            await stores.current.check()
        registry = await stack.enter_async_context(Registry(settings))
        platform = Platform.make(settings, db, Jobs(where.url), counters)
        stack.push_async_callback(platform.tasks.close)
        embedding = build_embedding(settings)
        stack.push_async_callback(embedding.aclose)
        parts = _build(platform, keys, mongo, Files(mongo, stores), registry, embedding, where)
        stack.push_async_callback(parts.search.aclose)
        stack.callback(parts.documents.egress.close)
        stack.callback(parts.webhooks.egress.close)
        yield await _start(stack, platform, parts, mongo, registry, sharing_port=sharing_port)


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


async def _start(
    stack: AsyncExitStack, platform: Platform, parts: _Parts, mongo: Mongo, registry: Registry, *, sharing_port: bool
) -> App:
    """Start runs, jobs and the server, in this order."""
    settings, db, tasks, engine = platform.settings, platform.db, platform.tasks, parts.engine
    credentials, recorder, plans = parts.auth.credentials, parts.audit.recorder, parts.policies.plans
    await stack.enter_async_context(engine.running())
    stack.callback(credentials.passwords.close)
    stack.push_async_callback(recorder.close)
    # The audit log comes last: its lock is that of all changes of the organization.
    db.before_commit = (Outbox(parts.webhooks.fan_out).before_commit, recorder.before_commit)
    server = build_server(
        parts.methods,
        TrustedProxies(settings.trusted_proxies or ()),
        credentials.authenticator,
        platform.limits,
        recorder,
        parts.access,
        sharing_port=sharing_port,
    )
    health_servicer = await add_services(server, _services(platform, parts))
    await stack.enter_async_context(platform.jobs.running(settings.shutdown_seconds))
    certificate = read_certificate(settings)
    tls = Tls(certificate) if certificate else None
    address = listen(server, settings, tls)
    await server.start()
    feed, seconds = parts.events.feed, settings.shutdown_seconds
    stack.push_async_callback(_drain, server, health_servicer, engine.manager, feed, seconds)
    return App(address, db, mongo, registry, engine, plans, credentials, parts.workspaces, tasks, tls, server)


async def _drain(
    server: grpc.aio.Server, health_servicer: health.aio.HealthServicer, runs: RunManager, feed: Feed, seconds: float
) -> None:
    """Refuse new calls, let runs and their readers finish, then stop."""
    await health_servicer.enter_graceful_shutdown()
    stopping = asyncio.create_task(server.stop(seconds + runs.interrupt_seconds))
    feed.close()
    await runs.close(seconds)
    await stopping
