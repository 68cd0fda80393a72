"""What the operator does to the ledger on the command line, also while servers run."""

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from .app import databases, make_mailer
from .budgets.jobs import Alerts
from .kit.errors import InvalidArgument
from .kit.jobs import Jobs
from .kit.postgres import Database
from .llm.base import TokenUsage
from .llm.prices import usd
from .migrate import check_schema
from .settings import Settings
from .usage import rebuild
from .usage.ledger import Ledger
from .usage.models import TOKENS
from .usage.reconcile import STATES, UNKNOWN, Bill, Billed, Reconciled, reconcile

Time = tuple[datetime, datetime]  # from and before

_BATCH = 500  # requests in a transaction, during which nobody else writes entries of the organization


class CommandError(Exception):
    """What was asked for cannot be done; the text says why."""


async def rebuild_usage(settings: Settings) -> None:
    """Makes the roll-ups and the counts of budgets of every organization anew."""
    async with _ledger(settings) as (db, _):
        orgs = await rebuild.list_orgs(db)
        for org_id in orgs:
            async with db.write(org_id) as tx:
                await rebuild.rebuild(tx, org_id)
    print(f"usage and budgets were added up anew from the ledgers of {len(orgs)} organizations")


async def reconcile_bill(
    settings: Settings, provider: str, file: Path, complete: Time | None, *, dry_run: bool
) -> None:
    """Compares the ledgers of all organizations with what a provider billed for the server's keys."""
    billed = list(read_bill(file))
    async with _ledger(settings) as (db, ledger):
        try:
            found = await _reconcile(db, ledger, provider, billed, complete, dry_run=dry_run)
        except InvalidArgument as error:
            raise CommandError(error.message) from None
    _show(found, dry_run=dry_run)


@asynccontextmanager
async def _ledger(settings: Settings) -> AsyncIterator[tuple[Database, Ledger]]:
    """The database, and a ledger whose alerts a server sends."""
    async with databases(settings) as where:
        db = Database(where.url)
        try:
            await check_schema(db, embedded=settings.embedded)
            yield db, Ledger(Alerts(db, Jobs(where.url), make_mailer(settings)).watch)
        finally:
            await db.close()


def read_bill(file: Path) -> Iterator[Billed]:
    """The lines of a file: {"request": "run_id/attempt", "input_tokens": 1, …}. Raises CommandError."""
    seen: dict[tuple[UUID, int], int] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise CommandError(f"{file} is not text in UTF-8") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            billed = _read_line(json.loads(line))
            if (first := seen.setdefault((billed.run_id, billed.attempt), number)) != number:
                raise ValueError(f"is about the same request as line {first}")
        except (ValueError, LookupError) as error:
            raise CommandError(f"{file}, line {number}: {error}") from None
        yield billed


def _read_line(line: Any) -> Billed:
    if not isinstance(line, dict):
        raise ValueError("is no object")
    if unknown := line.keys() - {"request", *TOKENS}:
        raise ValueError(f"{min(unknown)!r} is none of request, {', '.join(TOKENS)}")
    run_id, _, number = str(line["request"]).partition("/")
    tokens = {name: line.get(name, 0) for name in TOKENS}
    if wrong := [name for name, count in tokens.items() if type(count) is not int]:
        raise ValueError(f"{wrong[0]} is not a whole number")
    if not (number.isascii() and number.isdigit() and (attempt := int(number))):
        raise ValueError("request must be RUN/ATTEMPT, the id of a run and the number of an attempt from 1")
    billed = Billed(UUID(run_id), attempt, TokenUsage(**tokens))
    if not billed.usage.plausible:
        raise ValueError("cannot be true: a part is more than its whole, or a number is absurd")
    return billed


async def _reconcile(
    db: Database, ledger: Ledger, provider: str, billed: Sequence[Billed], complete: Time | None, *, dry_run: bool
) -> list[Reconciled]:
    orgs = await rebuild.find_orgs(db, {each.run_id for each in billed})
    by_org = defaultdict[UUID, list[Billed]](list)
    found = []
    for each in billed:
        if org_id := orgs.get(each.run_id):
            by_org[org_id].append(each)
        else:
            found.append(Reconciled(each.run_id, each.attempt, UNKNOWN))
    for org_id in await rebuild.list_orgs(db) if complete else list(by_org):
        for requests in [by_org[org_id]] if complete else _batches(by_org[org_id]):
            async with db.write(org_id) as tx:
                bill = Bill(provider, requests, complete)
                found += await reconcile(tx, ledger, org_id, bill, own_keys_only=False, dry_run=dry_run)
    return found


def _batches(billed: Sequence[Billed]) -> Iterator[Sequence[Billed]]:
    for start in range(0, len(billed), _BATCH):
        yield billed[start : start + _BATCH]


def _show(found: Sequence[Reconciled], *, dry_run: bool) -> None:
    for state in STATES:
        some = [each for each in found if each.state == state]
        print(f"{state.replace('_', ' '):<12} {len(some):>9,} {usd(sum(each.nanos for each in some)):>20} USD")
    print(f"{'together':<12} {len(found):>9,} {usd(sum(each.nanos for each in found)):>20} USD")
    if dry_run:
        print("nothing was written")
