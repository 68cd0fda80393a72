"""Queries on the ledger and its roll-ups. The tenant is set by the session, never here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Row,
    Select,
    String,
    Subquery,
    cast,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    union_all,
)

from ..kit.postgres import ReadSession
from ..service_accounts.models import ApiKey
from .models import NO_KEY, TOKENS, LedgerEntry, UsageRollup

CURRENCY = "USD"  # of all providers' prices
SPENT = ("settle", "adjust")  # kinds of entries that have a cost

Table = type[LedgerEntry] | type[UsageRollup]
Column = Any  # SQLAlchemy's columns, labels and attributes have no common type

_KEY = func.coalesce(LedgerEntry.key_id, NO_KEY)
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_LAST = datetime.max.replace(tzinfo=UTC)
# Literals: with bound parameters the expressions in GROUP BY and SELECT would not be recognized as the same.
DIMENSIONS: dict[str, ColumnElement[str]] = {
    "workspace_id": literal_column("CAST(spent.workspace_id AS text)", String),
    "user_id": literal_column("CAST(spent.user_id AS text)", String),
    "model": literal_column("spent.model", String),
    "day": literal_column("to_char(spent.time AT TIME ZONE 'UTC', 'YYYY-MM-DD')", String),
    "hour": literal_column("to_char(spent.time AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24')", String),
    "api_key_id": literal_column(f"coalesce(CAST(nullif(spent.key_id, '{NO_KEY}') AS text), '')", String),
}
_SUMMED = (*TOKENS, "cost_nanos")
_SUMS = [
    cast(func.coalesce(func.sum(literal_column(f"spent.{name}")), 0), BigInteger).label(name)
    for name in ("request_count", *_SUMMED)
]


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter of entries; None matches all. The times are those at which runs began."""

    workspace_id: UUID | None
    user_id: UUID | None
    key_id: UUID | None  # matches all keys of its line
    model: str | None
    start: datetime | None  # inclusive
    end: datetime | None  # exclusive


Time = tuple[datetime | None, datetime | None]  # [start, end); None means unbounded


def cut(time: Time, size: timedelta) -> tuple[Time | None, list[Time]]:
    """Split an interval into its whole hours or days, None if it has none, and the rest at both ends."""
    start, end = time
    first, last = start and _next(start, size), end and _floor(end, size)
    if first and last and first >= last:
        return None, [time]
    edges: list[Time] = [(start, first)] if start != first else []
    return (first, last), [*edges, (last, end)] if end != last else edges


def _floor(time: datetime, size: timedelta) -> datetime:
    hour = time.replace(minute=0, second=0, microsecond=0)
    return hour if size == _HOUR else hour.replace(hour=0)


def _next(time: datetime, size: timedelta) -> datetime:
    """Round a time up to the start of an hour or day."""
    floor = _floor(time, size)
    if time == floor:
        return time
    return floor + size if floor <= _LAST - size else _LAST


async def sums(
    tx: ReadSession, wanted: Filter, by: Sequence[str], after: Sequence[str] | None, limit: int
) -> tuple[Row[*tuple[Any, ...]], Sequence[Row[*tuple[Any, ...]]]]:
    """Return the total, and a page of totals per group, sorted by the dimensions in `by`, after the group `after`.

    A single statement, so that they agree. It reads roll-ups, and entries of at most two hours.
    """
    columns = [DIMENSIONS[name].collate("C").label(name) for name in by]
    query: Select[*tuple[Any, ...]] = select(*columns, *_SUMS).select_from(_spent(wanted, whole_days="hour" not in by))
    if not by:
        return (await tx.execute(query)).one(), []
    is_total = func.grouping(columns[0]) == 1
    query = query.group_by(func.grouping_sets(tuple_(), tuple_(*columns)))
    if after:
        query = query.having(or_(is_total, tuple_(*columns) > tuple_(*after)))
    total, *groups = (await tx.execute(query.order_by(is_total.desc(), *columns).limit(limit + 1))).all()
    return total, groups


def _spent(wanted: Filter, *, whole_days: bool) -> Subquery:
    """Return a subquery of roll-ups, and of entries where the interval cuts an hour."""
    parts = []
    hours, edges = cut((wanted.start, wanted.end), _HOUR)
    parts += [_entries(wanted, edge) for edge in edges]
    if hours and whole_days:
        days, edges = cut(hours, _DAY)
        parts += [_rollups(wanted, "hour", edge) for edge in edges]
        parts += [_rollups(wanted, "day", days)] if days else []
    elif hours:
        parts.append(_rollups(wanted, "hour", hours))
    return union_all(*parts).subquery("spent")


def _rollups(wanted: Filter, period: str, time: Time) -> Select[*tuple[Any, ...]]:
    table, within = UsageRollup, _within(UsageRollup.start_time, time)
    columns = _columns(table, table.start_time, table.key_id, table.request_count)
    return select(*columns).where(table.period == period, *within, *_equals(table, table.key_id, wanted))


def _entries(wanted: Filter, time: Time) -> Select[*tuple[Any, ...]]:
    table, within = LedgerEntry, _within(LedgerEntry.run_time, time)
    columns = _columns(table, table.run_time, _KEY, cast(table.kind == "settle", Integer))
    return select(*columns).where(table.kind.in_(SPENT), *within, *_equals(table, _KEY, wanted))


def _columns(table: Table, time: Column, key: Column, count: Column) -> list[Column]:
    """Return the summed columns of either table, in the same order for both."""
    named = time.label("time"), key.label("key_id"), count.label("request_count")
    return [*named, *(getattr(table, name) for name in ("workspace_id", "user_id", "model", *_SUMMED))]


def _equals(table: Table, key: Column, wanted: Filter) -> Iterator[ColumnElement[bool]]:
    columns = {"workspace_id": table.workspace_id, "user_id": table.user_id, "model": table.model}
    for name, column in columns.items():
        if (value := getattr(wanted, name)) is not None:
            yield column == value
    if wanted.key_id is not None:
        yield or_(key == wanted.key_id, key.in_(_keys_of_line(wanted.key_id)))


def _keys_of_line(key_id: UUID) -> Select[UUID]:
    """Select the keys of the line that this key belongs to."""
    root = func.coalesce(ApiKey.root_id, ApiKey.id)
    return select(ApiKey.id).where(root == select(root).where(ApiKey.id == key_id).scalar_subquery())


def _within(column: Column, time: Time) -> Iterator[ColumnElement[bool]]:
    start, end = time
    if start:
        yield column >= start
    if end:
        yield column < end


async def entries(
    tx: ReadSession, wanted: Filter, kinds: Sequence[str], run_id: UUID | None, before: UUID | None, limit: int
) -> Sequence[LedgerEntry]:
    """Return entries, newest first, starting after `before`."""
    within = _within(LedgerEntry.run_time, (wanted.start, wanted.end))
    query = select(LedgerEntry).where(LedgerEntry.kind.in_(kinds), *within, *_equals(LedgerEntry, _KEY, wanted))
    if run_id:
        query = query.where(LedgerEntry.run_id == run_id)
    if before:
        query = query.where(LedgerEntry.id < before)
    return (await tx.execute(query.order_by(LedgerEntry.id.desc()).limit(limit))).scalars().all()
