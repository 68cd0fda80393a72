"""The composition root: opens everything in order on one stack, and closes it in reverse."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import grpc
import structlog
from grpc_health.v1 import health

from .access.authorize import Access, FindScope
from .access.servicer import AccessServicer
from .accounts.jobs import TokenMails
from .accounts.service import EmailTokens
from .accounts.servicer import AccountServicer
from .audit.recorder import Recorder
from .audit.service import Chain
from .audit.servicer import AuditServicer
from .auth.credentials import Credentials
from .auth.jobs import Notices
from .auth.keys import Keys, read_keys
from .auth.servicer import AuthServicer
from .chat.recovery import recover, sole_server
from .chat.runs import Runs
from .chat.service import ChatFinder, cancel_unentitled
from .chat.servicer import ChatServicer
from .kit.contract import Method
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
from .orgs.servicer import OrgServicer
from .orgs.tokens import InvitationTokens
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
    credentials: Credentials


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
    counters = Counters(settings.redis_url.get_secret_value() if settings.redis_url else None)
    stack.push_async_callback(counters.close)
    credentials = Credentials.from_settings(settings, keys, db, counters)
    stack.callback(credentials.passwords.close)
    chain = Chain(derive(_lasting(settings), "audit"))
    recorder = Recorder(db, chain)
    stack.push_async_callback(recorder.close)
    db.before_commit = recorder.before_commit
    workspaces = WorkspaceFinder(db)
    access = Access(credentials.authenticator, _finders(mongo, workspaces))
    methods = read_surface(access)
    limits = Limits(counters, settings.rate_limit_factor)
    server = build_server(methods, credentials.authenticator, limits, recorder, access)
    shared = Shared(db, mongo, registry, runs, credentials, workspaces, access, methods, chain)
    health_servicer = await add_services(server, _services(settings, jobs, shared))
    await stack.enter_async_context(jobs.running(settings.shutdown_seconds))
    address = _bind(server, settings)
    await server.start()
    stack.push_async_callback(_drain, server, health_servicer, runs, settings.shutdown_seconds)
    return App(address, db, mongo, registry, runs, credentials)


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
    mongo: Mongo
    registry: Registry
    runs: Runs
    credentials: Credentials
    workspaces: WorkspaceFinder
    access: Access
    methods: Mapping[str, Method]
    chain: Chain

    async def left_org(self, org_id: UUID, user_id: UUID | None) -> None:
        self.workspaces.forget_all()  # also who comes back at once has none of their former places
        await self.runs.cancel_of(org_id, user_id)

    async def lost_rights(self, org_id: UUID, workspace_id: UUID | None = None) -> None:
        await self.runs.see_through(cancel_unentitled(self.db, self.runs, org_id, workspace_id))


def _services(settings: Settings, jobs: Jobs, shared: Shared) -> Services:
    db, credentials, lasting = shared.db, shared.credentials, _lasting(settings)
    pages, replies = Pages(derive(lasting, "pages")), Replies(derive(lasting, "replies"))
    invitations = InvitationTokens(derive(lasting, "invitations"))
    mailer, links = _mailer(settings), Links(settings.public_url)
    token_mails = TokenMails(db, jobs, mailer, links, EmailTokens(derive(lasting, "email tokens")))
    invitation_mails = InvitationMails(db, jobs, mailer, links, invitations)
    notices = Notices(db, jobs, mailer)
    return Services(
        auth=AuthServicer(db, credentials, token_mails.ask_verification, notices, pages, replies),
        accounts=AccountServicer(db, credentials.passwords, credentials.authenticator, token_mails, notices),
        orgs=OrgServicer(
            db,
            credentials.authenticator,
            shared.left_org,
            shared.lost_rights,
            invitations,
            invitation_mails,
            settings.require_verified_email,
            pages,
            replies,
        ),
        teams=TeamServicer(db, shared.workspaces, shared.lost_rights, pages, replies),
        access=AccessServicer(
            db, credentials.authenticator, shared.access, shared.methods, shared.lost_rights, pages, replies
        ),
        service_accounts=ServiceAccountServicer(
            db, credentials.authenticator, shared.left_org, notices, pages, replies
        ),
        workspaces=WorkspaceServicer(db, shared.registry, shared.workspaces, shared.lost_rights, pages, replies),
        chat=ChatServicer(db, shared.mongo, shared.registry, shared.runs, pages, replies),
        usage=UsageServicer(db, pages),
        audit=AuditServicer(db, shared.chain, pages),
    )


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
