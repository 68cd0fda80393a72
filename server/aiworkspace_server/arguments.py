"""The command line of `python -m aiworkspace_server`."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from .kit.call_limits import FIELDS as CALL_FIELDS
from .kit.call_limits import NAMES as CALL_CLASSES

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m aiworkspace_server", description="The AI Workspace server.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="start the server; settings come from the environment and .env")
    serve.add_argument("--migrate", action="store_true", help="migrate the databases to the current schema first")
    serve.add_argument(
        "--workers", type=_count, default=1, metavar="N", help="number of processes; more than one need Redis"
    )
    commands.add_parser("jobs", help="work the jobs of the queue, and serve no calls")
    commands.add_parser("migrate", help="migrate the databases to the current schema")
    commands.add_parser("rotate-keys", help="encrypt all stored provider keys with ENCRYPTION_SECRET")
    commands.add_parser("rebuild-usage", help="rebuild usage and budgets from the ledger; servers may run")
    bill = _add_reconcile(commands)
    register = commands.add_parser("register", help="create an account, whatever REGISTRATION says; servers may run")
    register.add_argument("email", help="email address of the account")
    register.add_argument("--name", help="name that other people see; by default the part of the address before the @")
    register.add_argument(
        "--password-stdin", action="store_true", help="read the password; otherwise a token to set it is mailed"
    )
    allowed = commands.add_parser(
        "allowance", help="show or set an organization's allowance on the server's keys; servers may run"
    )
    allowed.add_argument("org", type=UUID, help="id of the organization")
    allowed.add_argument("amount", nargs="?", help="USD a month, such as 100; or default, or unlimited")
    limits = _add_limits(commands)
    _add_operators(commands)
    _add_inspect(commands)
    commands.add_parser("worker")  # what serve --workers starts
    arguments = parser.parse_args()
    if arguments.command == "reconcile" and arguments.complete != bool(arguments.start and arguments.end):
        bill.error("--complete needs --start and --end, which only it uses")
    if arguments.command == "limits" and bool(arguments.kind) != any(getattr(arguments, name) for name in CALL_FIELDS):
        limits.error("a CLASS needs one of the options, and they need it")
    return arguments


def _add_reconcile(commands: "_Commands") -> argparse.ArgumentParser:
    bill = commands.add_parser("reconcile", help="correct the ledger by a provider's bill; servers may run")
    bill.add_argument("file", type=Path, help='one line per request: {"request": "run_id/attempt", "input_tokens": 1}')
    bill.add_argument("--provider", required=True, help="provider that sent the bill, such as openai")
    bill.add_argument("--complete", action="store_true", help="set requests from --start to --end that it lacks to 0")
    bill.add_argument("--start", type=_time, help="start of that period in UTC: 2026-11-01 or 2026-11-01T06:00Z")
    bill.add_argument("--end", type=_time, help="end of that period, exclusive")
    bill.add_argument("--dry-run", action="store_true", help="compare and write nothing")
    return bill


def _add_limits(commands: "_Commands") -> argparse.ArgumentParser:
    limits = commands.add_parser(
        "limits", help="show or set the most calls that an organization may allow its keys; servers may run"
    )
    limits.add_argument("org", type=UUID, help="id of the organization")
    limits.add_argument("kind", nargs="?", choices=CALL_CLASSES, metavar="CLASS", help=", ".join(CALL_CLASSES))
    for field in CALL_FIELDS:
        limits.add_argument(f"--{field.replace('_', '-')}", metavar="N", help="a number of them, or default")
    return limits


def _add_operators(commands: "_Commands") -> None:
    appointing = commands.add_parser("operators", help="appoint the people who may use AdminService; servers may run")
    verbs = appointing.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("list", help="show them")
    for verb, text in (("add", "appoint the owner of a verified account"), ("remove", "end the rights of one")):
        verbs.add_parser(verb, help=text).add_argument("email", help="email address of the account")


def _add_inspect(commands: "_Commands") -> None:
    what = commands.add_parser("inspect", help="show what is stored of a run; servers may run")
    kinds = what.add_subparsers(dest="kind", required=True, metavar="KIND")
    run = kinds.add_parser("run", help="document, attempts, events, claim, lease and ledger entries of a run")
    run.add_argument("id", type=UUID, help="id of the run, of any organization")
    run.add_argument("--text", action="store_true", help="with what people, models and providers said")
    run.add_argument("--json", action="store_true", help="print one JSON object, in which each event is listed")


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count
