"""The composition root: opens everything in order on one stack, and closes it in reverse."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import grpc
import structlog
from grpc_health.v1 import health

from .access.authorize import Access
from .access.servicer import AccessServicer
from .accounts.jobs import TokenMails
from .accounts.service import EmailTokens
from .accounts.servicer import AccountServicer
from .audit.recorder import Recorder
from .audit.service import Chain
from .audit.servicer import AuditServicer
from .auth.cookies import CsrfTokens
from .auth.devices import Devices
from .auth.jobs import Notices
from .auth.keys import Keys, read_keys
from .auth.passwords import Passwords
from .auth.principal import Authenticator
from .auth.service import Sessions
from .auth.servicer import AuthServicer
from .auth.throttle import Throttle
from .auth.tokens import Tokens
from .chat.recovery import recover, sole_server
from .chat.runs import Runs
from .chat.service import ChatFinder, cancel_unentitled
from .chat.servicer import ChatServicer
from .kit.embedded import embedded_mongo, embedded_postgres
from .kit.jobs import Jobs
from .kit.keys import derive
from .kit.limits import Counters, Limits
from .kit.mail import ConsoleMailer, Links, Mailer, SmtpMailer
from .kit.mongo import Mongo
from .kit.pages import Pages
from .kit.postgres import Database
from .kit.replies import Replies
from .llm.registry import Registry
from .migrate import check_schema, migrate
from .orgs.jobs import InvitationMails
from .orgs.service import InvitationTokens
from .orgs.servicer import OrgServicer
from .rpc import Services, add_services, build_server, read_surface
from .service_accounts.servicer import ServiceAccountServicer
from .settings import Settings
from .teams.servicer import TeamServicer
from .usage.servicer import UsageServicer
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
    runs: Runs
    access_tokens: Tokens
    refresh_tokens: Tokens

    def use_keys(self, keys: Keys) -> None:
        """Signs and checks tokens with these from now on."""
        self.access_tokens.use(keys.access)
        self.refresh_tokens.use(keys.refresh)


@dataclass(frozen=True, slots=True)
class Databases:
    """Where the databases are. `owner_url` may change the schema."""

    url: str
    owner_url: str
    mongo_uri: str


@asynccontextmanager
async def databases(settings: Settings) -> AsyncIterator[Databases]:
    """Those of the settings, or embedded ones that live as long as the context."""
    if settings.database_url and settings.mongo_uri:
        url = settings.database_url.get_secret_value()
        owner = settings.migration_database_url or settings.database_url
        yield Databases(url, owner.get_secret_value(), settings.mongo_uri.get_secret_value())
        return
    async with AsyncExitStack() as stack:
        log.info("starting databases", data_dir=str(settings.data_dir))
        url, mongo_uri = await asyncio.gather(
            stack.enter_async_context(embedded_postgres(settings.data_dir)),
            stack.enter_async_context(embedded_mongo(settings.data_dir)),
        )
        yield Databases(url, url, mongo_uri)


@asynccontextmanager
async def running(settings: Settings, *, migrating: bool) -> AsyncIterator[App]:
    """A server that takes calls until the context ends. Embedded databases are always migrated."""
    keys = read_keys(settings)
    async with AsyncExitStack() as stack:
        where = await stack.enter_async_context(databases(settings))
        mongo = Mongo(where.mongo_uri)
        stack.push_async_callback(mongo.close)
        if migrating or settings.embedded:
            await migrate(where.owner_url, mongo)
        db = Database(where.url)
        stack.push_async_callback(db.close)
        await check_schema(db, embedded=settings.embedded)
        jobs = Jobs(where.url)
        await stack.enter_async_context(sole_server(db))
        await recover(db, mongo)
        yield await _listen(stack, settings, keys, db, mongo, jobs)


async def _listen(stack: AsyncExitStack, settings: Settings, keys: Keys, db: Database, mongo: Mongo, jobs: Jobs) -> App:
    registry = await stack.enter_async_context(Registry.from_settings(settings))
    runs = Runs(db, mongo, settings.run_seconds, settings.max_output_tokens)
    stack.push_async_callback(runs.close, settings.shutdown_seconds)
    # The one secret that never changes, since all password hashes depend on it: what is made with these has to last.
    lasting = settings.password_pepper.get_secret_value()
    access_tokens = Tokens(keys.access, "access", settings.access_token_seconds)
    refresh_tokens = Tokens(keys.refresh, "refresh", settings.refresh_token_seconds)
    csrf_tokens = CsrfTokens(derive(lasting, "csrf"))
    authenticator = Authenticator(db, access_tokens, csrf_tokens)
    workspaces = WorkspaceFinder(db)
    chats = ChatFinder(mongo, workspaces)
    access = Access(
        authenticator,
        {
            "workspace_id": workspaces.find,
            "conversation_id": chats.find_conversation,
            "run_id": chats.find_run,
        },
    )
    counters = Counters(settings.redis_url.get_secret_value() if settings.redis_url else None)
    stack.push_async_callback(counters.close)
    limits = Limits(counters, settings.rate_limit_factor)
    passwords = Passwords(lasting, settings.password_hash_cost)
    stack.callback(passwords.close)
    sessions = Sessions(access_tokens, refresh_tokens, derive(lasting, "lineage"))
    devices, throttle = Devices(derive(lasting, "devices")), Throttle(counters, derive(lasting, "throttle"))
    pages, replies = Pages(derive(lasting, "pages")), Replies(derive(lasting, "replies"))
    invitations = InvitationTokens(derive(lasting, "invitations"))

    async def left_org(org_id: UUID, user_id: UUID | None) -> None:
        workspaces.forget_all()  # also who comes back at once has none of their former places
        await runs.cancel_of(org_id, user_id)

    async def lost_rights(org_id: UUID, workspace_id: UUID | None = None) -> None:
        await runs.see_through(cancel_unentitled(db, runs, org_id, workspace_id))

    chain = Chain(derive(lasting, "audit"))
    recorder = Recorder(db, chain)
    stack.push_async_callback(recorder.close)
    db.before_commit = recorder.before_commit
    mailer, links = _mailer(settings), Links(settings.public_url)
    token_mails = TokenMails(db, jobs, mailer, links, EmailTokens(derive(lasting, "email tokens")))
    invitation_mails = InvitationMails(db, jobs, mailer, links, invitations)
    notices = Notices(db, jobs, mailer)
    methods = read_surface(access)
    server = build_server(methods, authenticator, limits, recorder, access)
    services = Services(
        auth=AuthServicer(
            db,
            sessions,
            access_tokens,
            csrf_tokens,
            passwords,
            devices,
            throttle,
            authenticator,
            token_mails.ask_verification,
            notices,
            pages,
            replies,
        ),
        accounts=AccountServicer(db, passwords, authenticator, token_mails, notices),
        orgs=OrgServicer(
            db,
            authenticator,
            left_org,
            invitations,
            invitation_mails,
            settings.require_verified_email,
            pages,
            replies,
        ),
        teams=TeamServicer(db, workspaces, lost_rights, pages, replies),
        access=AccessServicer(db, authenticator, access, methods, pages, replies),
        service_accounts=ServiceAccountServicer(db, authenticator, left_org, notices, pages, replies),
        workspaces=WorkspaceServicer(db, registry, workspaces, lost_rights, pages, replies),
        chat=ChatServicer(db, mongo, registry, runs, pages, replies),
        usage=UsageServicer(db, pages),
        audit=AuditServicer(db, chain, pages),
    )
    health_servicer = await add_services(server, services)
    await stack.enter_async_context(jobs.running(settings.shutdown_seconds))
    address = _bind(server, settings)
    await server.start()
    stack.push_async_callback(_drain, server, health_servicer, runs, settings.shutdown_seconds)
    return App(address, db, mongo, registry, runs, access_tokens, refresh_tokens)


def _mailer(settings: Settings) -> Mailer:
    if settings.smtp_host is None or settings.mail_from is None:
        if not settings.embedded:
            log.warning("SMTP_HOST is not set: mail, with the tokens in it, is printed on standard output")
        return ConsoleMailer()
    password = settings.smtp_password.get_secret_value() if settings.smtp_password else None
    server = settings.smtp_host, settings.smtp_port
    return SmtpMailer(*server, settings.smtp_username, password, settings.smtp_tls, settings.mail_from)


def _bind(server: grpc.aio.Server, settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    wanted = f"{host}:{settings.port}"
    try:
        port = (
            server.add_secure_port(wanted, credentials)
            if (credentials := _tls(settings))
            else server.add_insecure_port(wanted)
        )
    except RuntimeError as error:
        raise OSError(f"cannot listen on {wanted}: is another server running there? Set PORT or HOST.") from error
    return f"{host}:{port}"


def _tls(settings: Settings) -> grpc.ServerCredentials | None:
    if not (settings.tls_cert_file and settings.tls_key_file):
        return None
    key, certificate = Path(settings.tls_key_file).read_bytes(), Path(settings.tls_cert_file).read_bytes()
    return grpc.ssl_server_credentials([(key, certificate)])


async def _drain(
    server: grpc.aio.Server, health_servicer: health.aio.HealthServicer, runs: Runs, seconds: float
) -> None:
    """Takes no new calls, lets runs end and their readers hear of it, then stops."""
    await health_servicer.enter_graceful_shutdown()
    stopping = asyncio.create_task(server.stop(seconds + runs.ending_seconds))
    await runs.close(seconds)
    await stopping
