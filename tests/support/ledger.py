"""The ledger of an organization: read through the contract or from PostgreSQL, and added up entry by entry."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from aiworkspace.v1 import usage_pb2
from aiworkspace_server.usage.models import NO_KEY, TOKENS
from tests.support.people import Person, Place
from tests.support.postgres import sql
from tests.support.stores import Stores


class Entry(NamedTuple):
    """What matters of an entry of the ledger."""

    kind: str
    run_id: UUID
    attempt: int
    run_time: datetime
    create_time: datetime
    workspace_id: UUID
    user_id: UUID
    key_id: UUID | None
    key_root_id: UUID | None
    own_key: bool
    model: str
    reserved: int
    cost: int
    tokens: Any  # a tuple of ints, in the order of TOKENS


Sums = dict[Any, tuple[int, ...]]

_COLUMNS = (
    "kind, run_id, attempt, run_time, create_time, workspace_id, user_id, key_id, key_root_id, own_key, model,"
    " reserved_nanos, cost_nanos"
)


async def read_entries(stores: Stores, org_id: str) -> list[Entry]:
    """All of them, the oldest first."""
    rows = await sql(
        stores, f"SELECT {_COLUMNS}, {', '.join(TOKENS)} FROM ledger_entries WHERE org_id = %s ORDER BY id", org_id
    )
    return [Entry._make((*row[:13], row[13:])) for row in rows]


async def usage_entries(person: Person, org_id: str, **fields: Any) -> list[usage_pb2.UsageEntry]:
    """What a person may read of the ledger, at most a page."""
    request = usage_pb2.ListUsageEntriesRequest(org_id=org_id, **fields)
    return list((await person.usage.ListUsageEntries(request)).entries)


async def ledger_of(place: Place, **fields: Any) -> list[usage_pb2.UsageEntry]:
    return await usage_entries(place.owner, place.org_id, **fields)


async def get_usage(person: Person, org_id: str, **fields: Any) -> usage_pb2.GetUsageResponse:
    response: usage_pb2.GetUsageResponse = await person.usage.GetUsage(
        usage_pb2.GetUsageRequest(org_id=org_id, **fields)
    )
    return response


async def check_books(stores: Stores, org_id: str) -> None:
    """Roll-ups and counts of budgets are the sums of the entries, and each reservation was ended once at most."""
    entries = await read_entries(stores, org_id)
    assert await _read_windows(stores, org_id) == await _windows(stores, org_id, entries)
    assert await _read_rollups(stores, org_id) == _rollups(entries)
    by_attempt = defaultdict[tuple[UUID, int], list[Entry]](list)
    for entry in entries:
        by_attempt[entry.run_id, entry.attempt].append(entry)
    for those in by_attempt.values():
        kinds = [entry.kind for entry in those if entry.kind != "adjust"]
        assert kinds in (["reserve"], ["reserve", "settle"], ["reserve", "release"])
        assert sum(entry.reserved for entry in those) == (those[0].reserved if len(kinds) == 1 else 0)


async def nothing_reserved(stores: Stores, org_id: str) -> bool:
    """Whether all reservations have been ended."""
    return not sum(entry.reserved for entry in await read_entries(stores, org_id))


async def read_windows(stores: Stores, org_id: str) -> Sums:
    """What is counted in budgets, settled and reserved, by budget, whose it is and begin; what is nothing left out.

    Without the allowance, which every organization has.
    """
    return {key: sums for key, sums in (await _read_windows(stores, org_id)).items() if key[0] != UUID(org_id)}


async def _read_windows(stores: Stores, org_id: str) -> Sums:
    columns = "budget_id, subject_id, start_time, settled_nanos, reserved_nanos"
    rows = await sql(stores, f"SELECT {columns} FROM budget_windows WHERE org_id = %s", org_id)
    return {row[:3]: row[3:] for row in rows if any(row[3:])}


async def _windows(stores: Stores, org_id: str, entries: list[Entry]) -> Sums:
    columns = "id, scope, subject_id, period, create_time"
    sums: Sums = {}
    for budget_id, scope, subject_id, period, made in await sql(
        stores, f"SELECT {columns} FROM budgets WHERE org_id = %s", org_id
    ):
        for entry in entries:
            whose = {
                "org": UUID(org_id),
                "workspace": entry.workspace_id,
                "member": entry.user_id,
                "api_key": entry.key_root_id,
                "allowance": None if entry.own_key else UUID(org_id),
            }[scope]
            start = begin(period, entry.run_time)
            if whose and subject_id in (None, whose) and start >= begin(period, made):
                _add(sums, (budget_id, whose, start), (entry.cost, entry.reserved))
    return {key: value for key, value in sums.items() if any(value)}


def begin(period: str, time: datetime) -> datetime:
    """When the hour, day or month began."""
    time = time.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    day = time if period == "hour" else time.replace(hour=0)
    return day - timedelta(days=day.day - 1) if period == "month" else day


async def _read_rollups(stores: Stores, org_id: str) -> Sums:
    columns = (
        f"period, start_time, workspace_id, user_id, key_id, model, request_count, cost_nanos, {', '.join(TOKENS)}"
    )
    rows = await sql(stores, f"SELECT {columns} FROM usage_rollups WHERE org_id = %s", org_id)
    return {row[:6]: row[6:] for row in rows if any(row[6:])}


def _rollups(entries: list[Entry]) -> Sums:
    sums: Sums = {}
    for entry in entries:
        for period in ("hour", "day"):
            whose = entry.workspace_id, entry.user_id, entry.key_id or NO_KEY, entry.model
            figures = int(entry.kind == "settle"), entry.cost, *entry.tokens
            if entry.kind in ("settle", "adjust"):
                _add(sums, (period, begin(period, entry.run_time), *whose), figures)
    return {key: value for key, value in sums.items() if any(value)}


def _add(sums: Sums, key: Any, figures: tuple[int, ...]) -> None:
    sums[key] = tuple(map(sum, zip(sums.get(key, (0,) * len(figures)), figures, strict=True)))
