"""The commands of `python -m aiworkspace_server`: serve, jobs, migrate, register, operators, allowance and more."""

import signal

from .kit.memory import collect_rarely

# Until there is something to stop gracefully, Ctrl-C ends the process at once: the imports below take seconds.
signal.signal(signal.SIGINT, signal.SIG_DFL)
collect_rarely()

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import uvloop

from . import operators
from . import settings as configuration
from .app import App, check, running, serving, working
from .arguments import parse_arguments
from .auth.keys import read_keys
from .commands import CommandError, allowance, ceilings, rebuild_usage, reconcile_bill
from .databases import databases, prepare
from .inspection import inspect
from .kit import logs
from .kit.call_limits import FIELDS as CALL_FIELDS
from .kit.condition import Condition
from .kit.contract import ContractError
from .kit.embedded import EmbeddedError
from .kit.memory import tended_memory
from .kit.metrics import keep_in_files
from .kit.mongo import Mongo
from .kit.postgres import Database
from .kit.stores import STORE_UNAVAILABLE
from .listening import address_of, read_certificate, reserved_port
from .migrate import LockedError, migrate
from .ops import ops_door
from .policies.rotation import rotate_keys
from .policies.vault import Vault
from .registration import register as make_account
from .runs.leases import DatabaseInUseError
from .schema import SchemaError
from .settings import Settings, SettingsError
from .webhooks.rotation import rotate_secrets
from .workers import RETIRE, STOP_SECONDS, Parent, Supervisor, WorkerFailedError

log = structlog.get_logger("serve")

REGISTER = '{"email": "me@example.com", "password": "a long passphrase", "display_name": "Me"}'
LOGIN = '{"email": "me@example.com", "password": "a long passphrase"}'


def main() -> None:
    arguments = parse_arguments()
    settings = configuration.load()
    logs.configure(settings.log_format, settings.log_level)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        uvloop.run(_work(settings, arguments))
    except KeyboardInterrupt:  # in a command that handles no signals
        sys.exit(128 + signal.SIGINT)
    except SettingsError as error:
        configuration.refuse(error)
    except WorkerFailedError as error:
        sys.exit(error.code)
    except (SchemaError, LockedError, DatabaseInUseError, EmbeddedError, ContractError, CommandError, OSError) as error:
        sys.exit(f"error: {error}")
    except STORE_UNAVAILABLE as error:
        sys.exit(f"error: a database does not answer: {' '.join(str(error).split())}")


async def _work(settings: Settings, arguments: argparse.Namespace) -> None:
    match arguments.command:
        case "serve" if arguments.workers > 1:
            await _serve_with_workers(settings, arguments.migrate, arguments.workers)
        case "serve":
            await serve(settings, arguments.migrate)
        case "jobs":
            await _work_jobs(settings)
        case "worker":
            await _be_worker(settings)
        case "migrate":
            await _migrate(settings)
        case "rotate-keys":
            await _rotate_keys(settings)
        case "register":
            password = sys.stdin.readline().rstrip("\r\n") if arguments.password_stdin else None
            if password == "":
                raise CommandError("there is no password on standard input")
            name = arguments.name or arguments.email.strip().partition("@")[0][:100]
            await make_account(settings, arguments.email, name, password)
        case "rebuild-usage":
            await rebuild_usage(settings)
        case "allowance":
            configuration.check_allowance(settings)
            await allowance(settings, arguments.org, arguments.amount)
        case "limits":
            given = {name: value for name in CALL_FIELDS if (value := getattr(arguments, name))}
            await ceilings(settings, arguments.org, arguments.kind, given)
        case "operators" if arguments.verb == "list":
            await operators.show(settings)
        case "operators":
            await (operators.add if arguments.verb == "add" else operators.remove)(settings, arguments.email)
        case "inspect":
            await inspect(settings, arguments.id, with_text=arguments.text, as_json=arguments.json)
        case "reconcile":
            complete = (arguments.start, arguments.end) if arguments.complete else None
            await reconcile_bill(settings, arguments.provider, arguments.file, complete, dry_run=arguments.dry_run)


async def serve(settings: Settings, migrating: bool) -> None:
    configuration.check_allowance(settings)
    stop, condition = _stop_signals(), Condition()
    _ignore_replacement("has no workers, which `serve --workers N` starts")
    with _alone_at_door(settings, condition):
        async with running(settings, migrating=migrating, condition=condition) as app:
            _on_hang_up(stop, lambda: read_anew(app))
            async with tended_memory():
                _welcome(settings, app.address)
                await _until_stopped(app, stop)
                print("stopping", flush=True)


@contextmanager
def _alone_at_door(settings: Settings, condition: Condition) -> Iterator[None]:
    """Answer operators for this process alone."""
    with ops_door(settings, lambda: condition.unready, lambda: condition.failing) as door:
        if door:
            keep_in_files(door.directory, 1)
        yield


async def _work_jobs(settings: Settings) -> None:
    stop, condition = _stop_signals(), Condition()
    _ignore_replacement("works jobs alone")
    with _alone_at_door(settings, condition):
        async with databases(settings) as where:
            await prepare(settings, where, migrating=False)
            async with working(settings, where, condition), tended_memory():
                print("aiworkspace working jobs", flush=True)
                await stop.wait()
                print("stopping", flush=True)


async def _until_stopped(app: App, stop: asyncio.Event) -> None:
    """Wait for the stop. Raises CommandError if the server ends by itself, so that the process can be replaced."""
    ending = asyncio.create_task(app.server.wait_for_termination())  # never cancelled: after that gRPC could not stop
    ending.add_done_callback(lambda _: stop.set())
    await stop.wait()
    if ending.done():
        raise CommandError("the server has stopped taking calls; the log says why")


async def _serve_with_workers(settings: Settings, migrating: bool, count: int) -> None:
    """Start the databases, if they are embedded, and supervise the workers. This process serves no calls."""
    configuration.check_allowance(settings)
    if settings.redis_url is None and not settings.embedded:
        raise SettingsError(["REDIS_URL is not set; several workers need Redis to reach each other's answers"])
    check(settings)
    supervisor: Supervisor | None = None

    def unready() -> str:
        return supervisor.condition.unready if supervisor else "starting"

    def failing() -> str:
        return supervisor.failing if supervisor else ""

    def kill() -> None:
        if supervisor:
            supervisor.send(signal.SIGKILL)

    stop = _stop_signals(kill)
    _ignore_replacement("is starting")
    with ops_door(settings, unready, failing) as door, reserved_port(settings.host, settings.port) as port:
        async with databases(settings, several=True) as where:
            await prepare(settings, where, migrating=migrating, processes=count)
            seconds = settings.drain_seconds + settings.shutdown_seconds
            supervisor = Supervisor(where, port, count, seconds, door.directory if door else None)
            async with supervisor.running():
                _on_hang_up(stop, lambda: supervisor.send(signal.SIGHUP))
                asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, supervisor.replace)
                _welcome(settings, address_of(settings, port))
                await stop.wait()
                print("stopping", flush=True)


async def _be_worker(settings: Settings) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there are keys to reload
    stop, condition, parent = _stop_signals(), Condition(), await Parent.connect()
    config = await parent.read_config()
    logs.configure(settings.log_format, settings.log_level, worker=config.number)
    if config.metrics:
        keep_in_files(Path(config.metrics), config.number)
    watching = asyncio.create_task(parent.gone())
    watching.add_done_callback(lambda _: _stop_alone(settings, stop))

    def retire() -> None:
        condition.replaced = True
        stop.set()

    asyncio.get_running_loop().add_signal_handler(RETIRE, retire)
    own = settings.model_copy(update={"port": config.port})
    async with serving(own, config.databases, sharing_port=True, condition=condition) as app:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, read_anew, app)
        async with tended_memory():
            saying = asyncio.create_task(parent.say_ready(condition))
            await _until_stopped(app, stop)
    saying.cancel()


def _stop_alone(settings: Settings, stop: asyncio.Event) -> None:
    """Stop, and exit after a timeout: without a supervisor, nothing would kill a worker that does not stop."""
    stop.set()
    asyncio.get_running_loop().call_later(
        settings.drain_seconds + settings.shutdown_seconds + STOP_SECONDS, os._exit, 1
    )


def _stop_signals(at_once: Callable[[], object] = lambda: None) -> asyncio.Event:
    """Return an event for the first SIGTERM or Ctrl-C. The second one calls `at_once` and ends this process at once.

    What it had in progress is found by other servers, or at the next start, as after a crash.
    """
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            at_once()
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return stop


def _ignore_replacement(why: str) -> None:
    """Log SIGUSR1, which replaces workers, where there are none. It would end the process otherwise."""

    def ignore() -> None:
        log.warning("no_workers_replaced", reason=f"this server {why}")

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, ignore)


def _on_hang_up(stop: asyncio.Event, read_anew: Callable[[], None]) -> None:
    """Handle SIGHUP: read keys and certificates again, or stop if it means that the terminal was closed."""
    began_on_terminal = os.isatty(0)

    def hang_up() -> None:
        if began_on_terminal and not os.isatty(0):
            stop.set()
        else:
            read_anew()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)


def read_anew(app: App) -> None:
    """Read the keys of tokens and the TLS certificate again. If they are invalid, the old ones stay in use."""
    try:
        settings = configuration.read()
    except SettingsError as error:
        log.error("token_keys_kept", problems=error.problems)
        return
    _read_keys(app, settings)
    _read_certificate(app, settings)


def _read_keys(app: App, settings: Settings) -> None:
    try:
        keys = read_keys(settings)
    except SettingsError as error:
        log.error("token_keys_kept", problems=error.problems)
        return
    app.credentials.use_keys(keys)
    log.info(
        "token_keys_replaced",
        access=[key.id for key in keys.access],
        refresh=[key.id for key in keys.refresh],
    )


def _read_certificate(app: App, settings: Settings) -> None:
    try:
        certificate = read_certificate(settings)
        if (certificate is None) != (app.tls is None):
            raise SettingsError(["TLS_CERT_FILE: a restart is needed to switch TLS on or off"])
        if certificate and certificate.expired:
            raise SettingsError(["TLS_CERT_FILE: the certificate has expired"])
    except SettingsError as error:
        log.error("tls_certificate_kept", problems=error.problems)
        return
    if certificate and app.tls:
        app.tls.use(certificate)
        log.info("tls_certificate_replaced", expire_time=certificate.expire_time.isoformat())


async def _migrate(settings: Settings) -> None:
    async with databases(settings) as where:
        mongo = Mongo(where.mongo_uri)
        await migrate(where.owner_url, mongo)
        await mongo.close()
    print("the databases have the current schema")


async def _rotate_keys(settings: Settings) -> None:
    async with databases(settings) as where:
        db = Database(where.url, where.session_url)
        vault = Vault.from_settings(settings)
        sealed, lost = map(sum, zip(await rotate_keys(db, vault), await rotate_secrets(db, vault), strict=True))
        await db.close()
    print(f"re-encrypted: {sealed}")
    if lost:
        sys.exit(f"error: {lost} could not be decrypted: is a secret missing in ENCRYPTION_OTHER_SECRETS?")


def _welcome(settings: Settings, address: str) -> None:
    print(f"aiworkspace listening on {address}", flush=True)
    print(first_steps(address, secure=settings.tls_cert_file is not None), flush=True)


def first_steps(address: str, *, secure: bool) -> str:
    """Return commands to paste. They need no .proto files, because the server describes itself by reflection."""
    buf = Path(sys.executable).with_name("buf")
    program = str(buf) if buf.exists() else "buf"
    url, plain = (f"https://{address}", "") if secure else (f"http://{address}", " -plaintext")
    curl = f"{program} curl --protocol grpc{'' if secure else ' --http2-prior-knowledge'}"
    return f"""
Try it with grpcurl:
  grpcurl{plain} {address} list
  grpcurl{plain} -d '{REGISTER}' {address} aiworkspace.v1.AuthService/Register
or with buf curl:
  {curl} -d '{REGISTER}' {url}/aiworkspace.v1.AuthService/Register
  export TOKEN=$({curl} -d '{LOGIN}' {url}/aiworkspace.v1.AuthService/Login \\
    | grep -o '"accessToken": *"[^"]*' | cut -d'"' -f4)
  {curl} -H "authorization: Bearer $TOKEN" {url}/aiworkspace.v1.AuthService/GetMe
Stop it with Ctrl-C.
"""


if __name__ == "__main__":
    main()
