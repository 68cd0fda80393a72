"""Queries on the audit log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, func, select, text, true

from ..kit.postgres import ReadSession, WriteSession
from .models import AuditEvent, AuditHead, AuditResource

_COLUMNS = [column.name for column in AuditEvent.__table__.columns]
_LOCK_HEAD = text(
    "INSERT INTO audit_heads AS h VALUES (:chain_id, 0, '-infinity', '')"
    " ON CONFLICT (chain_id) DO UPDATE SET sequence = h.sequence"
    " RETURNING h.sequence, CASE WHEN h.sequence > 0 THEN h.create_time END AS create_time, h.hash"
)
_APPEND = text(
    "WITH head AS (UPDATE audit_heads SET sequence = :sequence, create_time = :create_time, hash = :hash"
    "              WHERE chain_id = :chain_id),"
    " ids AS (INSERT INTO audit_resources SELECT :chain_id, :sequence, unnest(CAST(:resource_ids AS uuid[])))"
    f" INSERT INTO audit_events ({', '.join(_COLUMNS)})"
    f" VALUES ({', '.join(f'CAST(:{name} AS jsonb)' if name == 'resources' else f':{name}' for name in _COLUMNS)})"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries to list: all that each given condition is true of."""

    method: str = ""
    user_id: UUID | None = None
    resource_id: UUID | None = None
    code: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None


async def lock_head(tx: WriteSession, chain_id: UUID) -> Row[*tuple[Any, ...]]:
    """sequence, create_time (None before the first entry) and hash, with nobody else appending until the end of the
    transaction."""
    return (await tx.execute(_LOCK_HEAD, {"chain_id": chain_id})).one()


async def append(tx: WriteSession, values: Mapping[str, Any]) -> None:
    """Stores an entry, its ids and the new head: one statement, since the head is locked until the commit."""
    await tx.execute(_APPEND, values)


async def list_events(
    tx: ReadSession, chain_id: UUID, wanted: Wanted, before: int | None, limit: int
) -> Sequence[AuditEvent]:
    """The latest first, from the one that follows `before`. Each condition has an index in this order."""
    query = select(AuditEvent).where(AuditEvent.chain_id == chain_id)
    sequence: Any = AuditEvent.sequence
    if wanted.resource_id:
        sequence = AuditResource.sequence
        query = query.join(AuditResource, _same_entry()).where(
            AuditResource.chain_id == chain_id, AuditResource.resource_id == wanted.resource_id
        )
    if wanted.method:
        query = query.where(AuditEvent.method == wanted.method)
    if wanted.user_id:
        query = query.where(AuditEvent.user_id == wanted.user_id)
    if wanted.code:
        query = query.where(AuditEvent.code == wanted.code)
    # Times never decrease along a chain, so that a time range is a range of it.
    if wanted.start_time:
        query = query.where(sequence >= _first_since(chain_id, wanted.start_time).scalar_subquery())
    if wanted.end_time:
        end = _first_since(chain_id, wanted.end_time).scalar_subquery()
        query = query.where(sequence < func.coalesce(end, 2**62))
    if before:
        query = query.where(sequence < before)
    return (await tx.execute(query.order_by(sequence.desc()).limit(limit))).scalars().all()


def _same_entry() -> Any:
    return (AuditResource.chain_id == AuditEvent.chain_id) & (AuditResource.sequence == AuditEvent.sequence)


def _first_since(chain_id: UUID, time: datetime) -> Select[int]:
    since = AuditEvent.chain_id == chain_id, AuditEvent.create_time >= time
    return select(AuditEvent.sequence).where(*since).order_by(AuditEvent.create_time, AuditEvent.sequence).limit(1)


async def find_end(tx: ReadSession, chain_id: UUID) -> Row[int, bytes, int]:
    """sequence and hash of the head, 0 and empty without one, and the greatest number that an entry has: as they are
    at one moment."""
    head = select(AuditHead.sequence, AuditHead.hash).where(AuditHead.chain_id == chain_id).subquery()
    last = select(func.max(AuditEvent.sequence).label("sequence")).where(AuditEvent.chain_id == chain_id).subquery()
    columns = func.coalesce(head.c.sequence, 0), func.coalesce(head.c.hash, b""), func.coalesce(last.c.sequence, 0)
    return (await tx.execute(select(*columns).select_from(last.outerjoin(head, true())))).one()


async def list_forward(tx: ReadSession, chain_id: UUID, after: int | None, limit: int) -> Sequence[Any]:
    """Rows of entries with the `ids` stored to find them by, in ascending order."""
    ids = select(AuditResource.resource_id).where(_same_entry()).order_by(AuditResource.resource_id)
    array = func.array(ids.correlate(AuditEvent).scalar_subquery())
    query = select(*AuditEvent.__table__.columns, array.label("ids")).where(AuditEvent.chain_id == chain_id)
    if after is not None:
        query = query.where(AuditEvent.sequence > after)
    return (await tx.execute(query.order_by(AuditEvent.sequence).limit(limit))).all()
