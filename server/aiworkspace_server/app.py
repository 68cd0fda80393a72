"""The composition root: opens everything in order on one stack, and closes it in reverse."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import grpc
import structlog
from grpc_health.v1 import health

from .access.authorize import Access, FindScope
from .access.servicer import AccessServicer
from .accounts.jobs import TokenMails
from .accounts.service import EmailTokens, end_mailed
from .accounts.servicer import AccountServicer
from .audit.recorder import Recorder
from .audit.service import Chain
from .audit.servicer import AuditServicer
from .auth.authority import actor_of
from .auth.credentials import Credentials
from .auth.jobs import Notices
from .auth.keys import Keys, read_keys
from .auth.servicer import AuthServicer
from .budgets.jobs import Alerts
from .budgets.service import count_new_org
from .budgets.servicer import BudgetServicer
from .chat.engine import Engine
from .chat.erasure import ChatEraser
from .chat.leases import Lease
from .chat.recovery import Recovery
from .chat.relay import Relay
from .chat.runs import Runs
from .chat.service import ChatFinder
from .chat.servicer import ChatServicer
from .chat.stops import Stops
from .chat.upkeep import Upkeep
from .erasure.jobs import Erasure
from .kit.addresses import TrustedProxies
from .kit.concurrency import ConcurrencyLimiter
from .kit.contract import Method
from .kit.embedded import embedded_mongo, embedded_postgres, embedded_redis
from .kit.idempotency import IdempotencyStore
from .kit.jobs import Jobs
from .kit.keys import derive
from .kit.limits import Counters, Limits
from .kit.mail import ConsoleMailer, Links, Mailer, SmtpMailer
from .kit.mail_limits import LimitedMailer, SenderLimit
from .kit.mongo import Mongo
from .kit.pages import Pages
from .kit.postgres import Database
from .kit.stores import retry_until_available
from .kit.tasks import Tasks
from .listening import Tls, check_port, listen, read_certificate
from .llm.breaker import Breakers
from .llm.registry import Registry
from .migrate import check_schema, migrate
from .orgs import service as orgs
from .orgs.jobs import InvitationMails
from .orgs.servicer import OrgServicer
from .orgs.tokens import InvitationTokens
from .policies.plan import Plans
from .policies.providers import Providers
from .policies.servicer import ModelServicer
from .policies.vault import Vault
from .rpc import Services, add_services, build_server, read_surface
from .service_accounts.service import revoke_made_by
from .service_accounts.servicer import ServiceAccountServicer
from .settings import Settings
from .teams.servicer import TeamServicer
from .usage.ledger import Ledger
from .usage.servicer import UsageServicer
from .workspaces.members import check_may_take_all
from .workspaces.service import WorkspaceFinder
from .workspaces.servicer import WorkspaceServicer

log = structlog.get_logger("app")


@dataclass(frozen=True, slots=True)
class App:
    """A server that takes calls."""

    address: str  # host:port
    db: Database
    mongo: Mongo
    registry: Registry
    engine: Engine
    plans: Plans
    runs: Runs
    lease: Lease
    credentials: Credentials
    workspaces: WorkspaceFinder
    tasks: Tasks
    tls: Tls | None
    server: grpc.aio.Server

    @property
    def ledger(self) -> Ledger:
        return self.engine.ledger


@dataclass(frozen=True, slots=True)
class Databases:
    """Where the databases are. `owner_url` may change the schema."""

    url: str
    owner_url: str
    mongo_uri: str
    redis_url: str | None


@asynccontextmanager
async def databases(settings: Settings, *, several: bool = False) -> AsyncIterator[Databases]:
    """Those of the settings, or embedded ones that live as long as the context; Redis only for several processes."""
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    if settings.database_url and settings.mongo_uri:
        url = settings.database_url.get_secret_value()
        owner = settings.migration_database_url or settings.database_url
        yield Databases(url, owner.get_secret_value(), settings.mongo_uri.get_secret_value(), redis_url)
        return
    async with AsyncExitStack() as stack:
        log.info("starting databases", data_dir=str(settings.data_dir))
        if several and redis_url is None:  # first, since it is the one that may be missing
            redis_url = await stack.enter_async_context(embedded_redis(settings.data_dir))
        url, mongo_uri = await asyncio.gather(
            stack.enter_async_context(embedded_postgres(settings.data_dir)),
            stack.enter_async_context(embedded_mongo(settings.data_dir)),
        )
        yield Databases(url, url, mongo_uri, redis_url)


async def prepare(settings: Settings, where: Databases, *, migrating: bool) -> None:
    """Brings the databases to the present schema when that was asked for. Embedded ones always are."""
    if migrating or settings.embedded:
        mongo = Mongo(where.mongo_uri)
        await migrate(where.owner_url, mongo)
        await mongo.close()


def check(settings: Settings) -> None:
    """Raise an error for keys, certificates and addresses that cannot be used, before anything is started."""
    read_keys(settings)
    read_certificate(settings)
    check_port(settings.host, settings.port)


@asynccontextmanager
async def running(settings: Settings, *, migrating: bool) -> AsyncIterator[App]:
    """A server that takes calls until the context ends."""
    check(settings)
    async with databases(settings) as where:
        await prepare(settings, where, migrating=migrating)
        async with serving(settings, where) as app:
            yield app


@asynccontextmanager
async def serving(settings: Settings, where: Databases, *, sharing_port: bool = False) -> AsyncIterator[App]:
    """The same with databases that are there and at the present schema."""
    keys = read_keys(settings)
    async with AsyncExitStack() as stack:
        mongo = Mongo(where.mongo_uri)
        stack.push_async_callback(mongo.close)
        db = Database(where.url)
        stack.push_async_callback(db.close)
        await check_schema(db, embedded=settings.embedded)
        jobs = Jobs(where.url)
        yield await _listen(stack, settings, keys, db, mongo, jobs, where.redis_url, sharing_port=sharing_port)


async def _listen(
    stack: AsyncExitStack,
    settings: Settings,
    keys: Keys,
    db: Database,
    mongo: Mongo,
    jobs: Jobs,
    redis_url: str | None,
    *,
    sharing_port: bool,
) -> App:
    counters = Counters(redis_url)
    stack.push_async_callback(counters.close)
    registry, vault = await stack.enter_async_context(Registry(settings)), Vault.from_settings(settings)
    mailer = LimitedMailer(make_mailer(settings), counters, derive(_lasting(settings), "mail limits"))
    providers = Providers(db, registry, vault)
    plans = Plans(db, providers, counters, settings.max_output_tokens)
    lease, relay = Lease(db, shared=redis_url is not None), Relay(redis_url)
    limiter = ConcurrencyLimiter(settings.provider_concurrency, settings.org_concurrency, settings.provider_queue)
    tasks = Tasks()
    stack.push_async_callback(tasks.close)
    alerts = Alerts(db, jobs, mailer)
    alerts.register(jobs)
    ledger = Ledger(alerts.watch, settings.allowance_nanos)
    engine = Engine(db, mongo, ledger, Breakers(), limiter, lease, settings.run_seconds)
    runs = await _working(stack, engine, plans, relay, tasks, settings.shutdown_seconds)
    credentials = Credentials.from_settings(settings, keys, db, counters)
    stack.callback(credentials.passwords.close)
    chain = audit_chain(settings)
    recorder = Recorder(db, chain, actor_of, Tasks())
    stack.push_async_callback(recorder.close)
    db.before_commit = recorder.before_commit
    workspaces = WorkspaceFinder(db)
    access = Access(
        credentials.authenticator,
        _finders(mongo, workspaces),
        verified_email_required=settings.verified_email_required,
    )
    methods = read_surface(access)
    limits = Limits(counters, settings.rate_limit_factor)
    proxies = TrustedProxies(settings.trusted_proxies or ())
    server = build_server(
        methods, proxies, credentials.authenticator, limits, recorder, access, sharing_port=sharing_port
    )
    stops = Stops(db, runs, relay)
    shared = Shared(
        db,
        counters,
        mongo,
        registry,
        vault,
        providers,
        plans,
        runs,
        ChatEraser(db, mongo, stops, relay),
        stops,
        ledger,
        credentials,
        workspaces,
        access,
        methods,
        limits,
        chain,
        mailer,
        tasks,
    )
    health_servicer = await add_services(server, _services(settings, jobs, shared))
    await stack.enter_async_context(jobs.running(settings.shutdown_seconds))
    certificate = read_certificate(settings)
    tls = Tls(certificate) if certificate else None
    address = listen(server, settings, tls)
    await server.start()
    stack.push_async_callback(_drain, server, health_servicer, runs, settings.shutdown_seconds)
    return App(address, db, mongo, registry, engine, plans, runs, lease, credentials, workspaces, tasks, tls, server)


async def _working(
    stack: AsyncExitStack, engine: Engine, plans: Plans, relay: Relay, tasks: Tasks, shutdown_seconds: float
) -> Runs:
    """The runs of this process, once it has its lease, and what was left of others is brought to its end."""
    stack.push_async_callback(engine.lease.end)
    runs = Runs(engine, relay, tasks)
    recovery = Recovery(engine, plans, runs, relay)
    alone = await engine.lease.begin()
    await stack.enter_async_context(relay.running(runs.stop))
    await stack.enter_async_context(Upkeep(engine, runs, recovery).running())
    stack.push_async_callback(runs.close, shutdown_seconds)
    if alone:  # while the lease is renewed, however much there is to take over
        await recovery.take_over()
    return runs


def audit_chain(settings: Settings) -> Chain:
    """Return the chain of the audit log."""
    return Chain(derive(_lasting(settings), "audit"))


def _lasting(settings: Settings) -> str:
    """The one secret that never changes, since all password hashes depend on it: what is made with it has to last."""
    return settings.password_pepper.get_secret_value()


def _finders(mongo: Mongo, workspaces: WorkspaceFinder) -> dict[str, FindScope]:
    """Where the resources lie that methods name, by the field that names them."""
    chats = ChatFinder(mongo, workspaces)
    return {"workspace_id": workspaces.find, "conversation_id": chats.find_conversation, "run_id": chats.find_run}


@dataclass(frozen=True, slots=True)
class Shared:
    """What several services need."""

    db: Database
    counters: Counters
    mongo: Mongo
    registry: Registry
    vault: Vault
    providers: Providers
    plans: Plans
    runs: Runs
    eraser: ChatEraser
    stops: Stops
    ledger: Ledger
    credentials: Credentials
    workspaces: WorkspaceFinder
    access: Access
    methods: Mapping[str, Method]
    limits: Limits
    chain: Chain
    mailer: Mailer
    tasks: Tasks

    async def rights_lost(self, org_id: UUID) -> None:
        """Stops the runs to which the right has ended, after a change that took rights away was committed.

        Should the process die before this, the servers that work on those runs find them within a second.
        """
        self.workspaces.forget_all()
        await self.tasks.complete(retry_until_available(lambda: self.stops.of_unentitled(org_id)))


def _services(settings: Settings, jobs: Jobs, shared: Shared) -> Services:
    db, credentials, lasting = shared.db, shared.credentials, _lasting(settings)
    pages, idempotency = Pages(derive(lasting, "pages")), IdempotencyStore(derive(lasting, "replies"))
    invitations = InvitationTokens(derive(lasting, "invitations"))
    mailer, links = shared.mailer, Links(settings.public_url)
    token_mails = TokenMails(db, jobs, mailer, links, EmailTokens(derive(lasting, "email tokens")))
    invitation_mails = InvitationMails(db, jobs, mailer, links, invitations)
    notices = Notices(db, jobs, mailer)
    erasure = Erasure(db, jobs, shared.eraser)
    for each in (token_mails, invitation_mails, notices, erasure):
        each.register(jobs)
    return Services(
        auth=AuthServicer(
            db,
            credentials,
            settings.who_registers,
            token_mails.ask_verification,
            end_mailed,
            notices,
            pages,
            idempotency,
        ),
        accounts=AccountServicer(
            db,
            credentials,
            token_mails,
            notices,
            orgs.give_up_address,
            orgs.leave_all,
            shared.rights_lost,
            erasure.ask_account,
            idempotency,
        ),
        orgs=OrgServicer(
            db,
            credentials.authenticator,
            partial(count_new_org, allowance_nanos=settings.allowance_nanos),
            shared.rights_lost,
            shared.tasks,
            erasure.ask_org,
            check_may_take_all,
            revoke_made_by,
            invitations,
            invitation_mails,
            SenderLimit(shared.counters, settings.invitations_per_hour),
            settings.verified_email_required,
            pages,
            idempotency,
        ),
        teams=TeamServicer(db, shared.workspaces, shared.rights_lost, pages, idempotency),
        access=AccessServicer(
            db, credentials.authenticator, shared.access, shared.methods, shared.rights_lost, pages, idempotency
        ),
        service_accounts=ServiceAccountServicer(
            db,
            credentials.authenticator,
            shared.rights_lost,
            shared.tasks,
            erasure.ask_account,
            notices,
            pages,
            idempotency,
        ),
        workspaces=WorkspaceServicer(
            db,
            shared.providers,
            shared.workspaces,
            shared.rights_lost,
            erasure.ask_workspace,
            pages,
            idempotency,
        ),
        models=ModelServicer(db, shared.providers, shared.vault, pages),
        chat=ChatServicer(
            db,
            shared.mongo,
            shared.registry,
            shared.providers,
            shared.plans,
            shared.runs,
            shared.stops,
            shared.access.authorize_again,
            shared.eraser,
            pages,
            idempotency,
        ),
        usage=UsageServicer(db, shared.ledger, pages),
        budgets=BudgetServicer(
            db, shared.plans, shared.limits, shared.methods, pages, idempotency, settings.allowance_nanos
        ),
        audit=AuditServicer(db, shared.chain, pages),
    )


def make_mailer(settings: Settings) -> Mailer:
    """The mail server of the settings, or standard output."""
    if settings.smtp_host is None or settings.mail_from is None:
        if not settings.embedded:
            log.warning("SMTP_HOST is not set: mail, with the tokens in it, is printed on standard output")
        return ConsoleMailer()
    password = settings.smtp_password.get_secret_value() if settings.smtp_password else None
    server = settings.smtp_host, settings.smtp_port
    return SmtpMailer(*server, settings.smtp_username, password, settings.smtp_tls, settings.mail_from)


async def _drain(
    server: grpc.aio.Server, health_servicer: health.aio.HealthServicer, runs: Runs, seconds: float
) -> None:
    """Takes no new calls, lets runs end and their readers hear of it, then stops."""
    await health_servicer.enter_graceful_shutdown()
    stopping = asyncio.create_task(server.stop(seconds + runs.ending_seconds))
    await runs.close(seconds)
    await stopping
