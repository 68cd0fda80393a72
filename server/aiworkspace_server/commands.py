"""Commands of the operator on the ledger. They may run while servers run."""

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from .audit.build import make_chain
from .budgets import service as budgets
from .budgets.store import find_budget
from .databases import databases
from .kit.call_limits import FIELDS, NAMES, CallLimits
from .kit.errors import InvalidArgument
from .kit.postgres import Database
from .llm.base import TokenUsage
from .llm.prices import usd
from .orgs.store import find_org
from .schema import check_schema
from .settings import Settings
from .usage import rebuild
from .usage.ledger import UNLIMITED, Ledger
from .usage.models import TOKENS
from .usage.reconcile import STATES, UNKNOWN, Bill, Billed, Reconciled, reconcile

Time = tuple[datetime, datetime]  # [start, end)

_MOST_CALLS = 10**9
_BATCH = 500  # requests per transaction, which holds the ledger's exclusive lock


class CommandError(Exception):
    """The command failed; the text says why."""


async def rebuild_usage(settings: Settings) -> None:
    """Rebuild roll-ups and budget windows of all organizations."""
    async with _ledger(settings) as (db, _):
        orgs = await rebuild.list_orgs(db)
        for org_id in orgs:
            async with db.write(org_id) as tx:
                await rebuild.rebuild(tx, org_id)
    print(f"usage and budgets were rebuilt from the ledgers of {len(orgs)} organizations")


async def reconcile_bill(
    settings: Settings, provider: str, file: Path, complete: Time | None, *, dry_run: bool
) -> None:
    """Compare the ledgers of all organizations with a provider's bill for the server's keys, and correct them."""
    billed = list(read_bill(file))
    async with _ledger(settings) as (db, ledger):
        try:
            found = await _reconcile(db, ledger, provider, billed, complete, dry_run=dry_run)
        except InvalidArgument as error:
            raise CommandError(error.message) from None
    _show(found, dry_run=dry_run)


async def allowance(settings: Settings, org_id: UUID, amount: str | None) -> None:
    """Set an organization's monthly allowance, if an amount is given, and show it.

    The amount is in USD, or "unlimited", or "default" for ORG_ALLOWANCE_USD.
    """
    limit_nanos = _read_allowance(amount) if amount else None
    async with _ledger(settings) as (db, _):
        async with db.write(org_id) as tx:
            org = await find_org(tx, org_id)
            if org is None:
                raise CommandError(f"there is no organization {org_id}")
            if amount:
                if await budgets.set_allowance(tx, org_id, limit_nanos) is None:
                    raise CommandError(f"{org.name!r} has no row for its allowance in the budgets; nothing was changed")
                await make_chain(settings).append(tx, org_id, operator_entry("allowance", org_id=org_id))
        async with db.read(org_id) as tx:
            found = await find_budget(tx, org_id)
    budget, count = found or (None, None)
    limit = budgets.limit_of(budget, settings.allowance_nanos) if budget else UNLIMITED
    most = "no limit" if limit == UNLIMITED else f"{usd(limit)} USD"
    usual = " (the server's default)" if budget and budget.limit_nanos is None else ""
    settled, reserved = (count.settled_nanos, count.reserved_nanos) if count else (0, 0)
    print(f"{org.name!r} may spend {most} a month on the server's keys{usual}")
    print(f"this month: {usd(settled)} USD spent, {usd(reserved)} USD reserved")


async def ceilings(settings: Settings, org_id: UUID, kind: str | None, given: Mapping[str, str]) -> None:
    """Set the most that an organization may allow its keys of a class of calls, if one is given, and show all.

    Values are numbers from 1, or "default" for what CALL_CEILING_FACTOR gives. Servers notice within a second.
    """
    values = {field: _read_ceiling(value) for field, value in given.items()}
    async with _ledger(settings) as (db, _), db.write(org_id) as tx:
        org = await find_org(tx, org_id)
        if org is None:
            raise CommandError(f"there is no organization {org_id}")
        if kind:
            limit = {name: value for name, value in (org.call_ceilings.get(kind, {}) | values).items() if value}
            others = {name: each for name, each in org.call_ceilings.items() if name != kind}
            org.call_ceilings = others | ({kind: limit} if limit else {})
            await make_chain(settings).append(tx, org_id, operator_entry("limits", org_id=org_id))
        call_limits = CallLimits(settings.rate_limit_factor, settings.call_ceiling_factor)
        print(f"{org.name!r} may allow each service account, in {', '.join(FIELDS)}:")
        for name, number in NAMES.items():
            most = call_limits.ceiling(number, org.call_ceilings)
            usual = "" if name in org.call_ceilings else " (the server's default)"
            print(f"{name:<9}", *(f"{getattr(most, field):>9,}" for field in FIELDS), usual)


def _read_ceiling(value: str) -> int | None:
    """Return the number; None means the server's default."""
    if value == "default":
        return None
    if value.isascii() and value.isdigit() and 0 < int(value) <= _MOST_CALLS:
        return int(value)
    raise CommandError(f"{value!r} is neither a number from 1 to {_MOST_CALLS:,} nor default")


def _read_allowance(amount: str) -> int | None:
    """Return the amount in nanos; None means the server's default."""
    if amount in ("default", "unlimited"):
        return None if amount == "default" else UNLIMITED
    try:
        nanos = Decimal(amount) * 10**9
        if 0 <= nanos < UNLIMITED and nanos == nanos.to_integral_value():
            return int(nanos)
    except ArithmeticError:
        pass
    raise CommandError(f"{amount!r} is not an amount in USD such as 100 or 2.50, nor default, nor unlimited")


def operator_entry(command: str, **ids: UUID) -> dict[str, Any]:
    """Return an audit entry for a command of the operator."""
    nobody = dict.fromkeys(("user_id", "session_id", "api_key_id"))
    told = {"method": command, "role": "operator", "user_agent": "aiworkspace_server", "address": "", "request_id": ""}
    return nobody | told | {"resources": {name: str(id) for name, id in ids.items()}, "code": "OK", "reason": ""}


@asynccontextmanager
async def _ledger(settings: Settings) -> AsyncIterator[tuple[Database, Ledger]]:
    """Open the database and the ledger. Alerts are enqueued and sent by a server."""
    async with databases(settings) as where:
        # A statement may go through a whole ledger, however long that takes.
        db = Database(where.url, where.session_url, connection_class=AsyncConnection)
        try:
            await check_schema(db, embedded=settings.embedded)
            yield db, Ledger(settings.allowance_nanos)
        finally:
            await db.close()


def read_bill(file: Path) -> Iterator[Billed]:
    """Yield the lines of a file: {"request": "run_id/attempt", "input_tokens": 1, …}. Raises CommandError."""
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
                raise ValueError(f"has the same request as line {first}")
        except (ValueError, LookupError) as error:
            raise CommandError(f"{file}, line {number}: {error}") from None
        yield billed


def _read_line(line: Any) -> Billed:
    if not isinstance(line, dict):
        raise ValueError("is not a JSON object")
    if unknown := line.keys() - {"request", *TOKENS}:
        raise ValueError(f"{min(unknown)!r} is not one of request, {', '.join(TOKENS)}")
    run_id, _, number = str(line["request"]).partition("/")
    tokens = {name: line.get(name, 0) for name in TOKENS}
    if wrong := [name for name, count in tokens.items() if type(count) is not int]:
        raise ValueError(f"{wrong[0]} is not a whole number")
    if not (number.isascii() and number.isdigit() and (attempt := int(number))):
        raise ValueError("request must be RUN/ATTEMPT, the id of a run and the number of an attempt from 1")
    billed = Billed(UUID(run_id), attempt, TokenUsage(**tokens))
    if not billed.usage.plausible:
        raise ValueError("is impossible: a part exceeds its whole, or a number is absurd")
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
