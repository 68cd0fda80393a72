"""Queries on the ledger. The tenant is set by the session, never here."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, Row, Select, String, cast, func, literal_column, select, tuple_

from ..kit.postgres import ReadSession
from .models import LedgerEntry

CURRENCY = "USD"  # the one in which all providers' prices are given

# Written out: bound parameters would make the expression in GROUP BY another one than that in SELECT.
_DAY: ColumnElement[str] = literal_column(
    "to_char(ledger_entries.create_time AT TIME ZONE 'UTC', 'YYYY-MM-DD')", String
)
DIMENSIONS: dict[str, ColumnElement[str]] = {
    "workspace_id": cast(LedgerEntry.workspace_id, String),
    "user_id": cast(LedgerEntry.user_id, String),
    "model": LedgerEntry.model.expression,
    "day": _DAY,
}
_SUMS = (
    func.count().label("request_count"),
    *(
        cast(func.coalesce(func.sum(column), 0), BigInteger).label(column.key)
        for column in (
            LedgerEntry.input_tokens,
            LedgerEntry.cached_input_tokens,
            LedgerEntry.cache_write_tokens,
            LedgerEntry.output_tokens,
            LedgerEntry.reasoning_tokens,
            LedgerEntry.cost_nanos,
        )
    ),
)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries to look at; None lets all through."""

    workspace_id: UUID | None
    user_id: UUID | None
    model: str | None
    start: datetime | None  # inclusive
    end: datetime | None  # exclusive

    def conditions(self) -> list[ColumnElement[bool]]:
        equal = {name: getattr(self, name) for name in ("workspace_id", "user_id", "model")}
        conditions = [getattr(LedgerEntry, name) == value for name, value in equal.items() if value is not None]
        if self.start:
            conditions.append(LedgerEntry.create_time >= self.start)
        if self.end:
            conditions.append(LedgerEntry.create_time < self.end)
        return conditions


async def total(tx: ReadSession, wanted: Filter) -> Row[*tuple[Any, ...]]:
    return (await tx.execute(select(*_SUMS).where(*wanted.conditions()))).one()


async def groups(
    tx: ReadSession, wanted: Filter, by: Sequence[str], after: Sequence[str] | None, limit: int
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Totals per group in the order of the names in `by`, from the group that follows `after`."""
    columns = [DIMENSIONS[name].collate("C").label(name) for name in by]
    query: Select[*tuple[Any, ...]] = select(*columns, *_SUMS).where(*wanted.conditions())
    if after:
        query = query.where(tuple_(*columns) > tuple_(*after))
    return (await tx.execute(query.group_by(*columns).order_by(*columns).limit(limit))).all()


async def entries(tx: ReadSession, wanted: Filter, before: UUID | None, limit: int) -> Sequence[LedgerEntry]:
    """The latest first, from the one that follows `before`."""
    query = select(LedgerEntry).where(*wanted.conditions()).order_by(LedgerEntry.id.desc()).limit(limit)
    if before:
        query = query.where(LedgerEntry.id < before)
    return (await tx.execute(query)).scalars().all()
