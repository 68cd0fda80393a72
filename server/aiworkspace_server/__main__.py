"""`python -m aiworkspace_server serve | migrate`."""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

import structlog
import uvloop

from . import settings as configuration
from .app import App, databases, running
from .auth.keys import read_keys
from .chat.recovery import DatabaseInUseError
from .kit import logs
from .kit.contract import ContractError
from .kit.embedded import EmbeddedError
from .kit.mongo import Mongo
from .kit.stores import STORE_AWAY
from .migrate import SchemaError, migrate
from .settings import Settings, SettingsError

log = structlog.get_logger("serve")

REGISTER = '{"email": "me@example.com", "password": "a long passphrase", "display_name": "Me"}'
LOGIN = '{"email": "me@example.com", "password": "a long passphrase"}'


def main() -> None:
    arguments = _arguments()
    settings = configuration.load()
    logs.configure(settings.log_format, settings.log_level)
    work = _serve(settings, arguments.migrate) if arguments.command == "serve" else _migrate(settings)
    try:
        uvloop.run(work)
    except SettingsError as error:
        configuration.refuse(error)
    except (SchemaError, DatabaseInUseError, EmbeddedError, ContractError, OSError) as error:
        sys.exit(f"error: {error}")
    except STORE_AWAY as error:
        sys.exit(f"error: a database does not answer: {error}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m aiworkspace_server", description="The AI Workspace server.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="start the server; settings come from the environment and .env")
    serve.add_argument("--migrate", action="store_true", help="bring the databases to the present schema first")
    commands.add_parser("migrate", help="bring the databases to the present schema")
    return parser.parse_args()


async def _serve(settings: Settings, migrating: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(settings, migrating=migrating) as app:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _hang_up, app, stop, os.isatty(0))
        print(f"aiworkspace listening on {app.address}", flush=True)
        print(_first_steps(app.address, secure=settings.tls_cert_file is not None), flush=True)
        await stop.wait()
        print("stopping", flush=True)


def _hang_up(app: App, stop: asyncio.Event, began_on_terminal: bool) -> None:
    """Reads the keys of tokens anew; or stops, when the signal says that the terminal has gone."""
    if began_on_terminal and not os.isatty(0):
        stop.set()
        return
    try:
        keys = read_keys(configuration.read())
    except SettingsError as error:
        log.error("the keys of tokens stay as they were", problems=error.problems)
        return
    app.credentials.use_keys(keys)
    log.info(
        "the keys of tokens were read anew",
        access=[key.id for key in keys.access],
        refresh=[key.id for key in keys.refresh],
    )


async def _migrate(settings: Settings) -> None:
    async with databases(settings) as where:
        mongo = Mongo(where.mongo_uri)
        await migrate(where.owner_url, mongo)
        await mongo.close()
    print("the databases are at the present schema")


def _first_steps(address: str, *, secure: bool) -> str:
    """Commands to paste. They need nothing but the server, since it describes itself by reflection."""
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
