"""Queries on the audit log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, select, text, true
from sqlalchemy.orm import aliased

from ..kit.postgres import ReadSession, WriteSession
from .models import AuditEvent, AuditHead, AuditOrigin, AuditResource

_COLUMNS = [column.name for column in AuditEvent.__table__.columns]
_ENTER = text("SELECT set_config('app.user_id', :user_id, true)")
_LOCK_HEAD = text(
    "INSERT INTO audit_heads AS h VALUES (:chain_id, 0, '-infinity', '')"
    " ON CONFLICT (chain_id) DO UPDATE SET sequence = h.sequence"
    " RETURNING h.sequence, CASE WHEN h.sequence > 0 THEN h.create_time END AS create_time, h.hash"
)
# Only column names are interpolated.
_APPEND = text(
    "WITH head AS (UPDATE audit_heads SET sequence = :sequence, create_time = :create_time, hash = :hash"
    "              WHERE chain_id = :chain_id),"
    " ids AS (INSERT INTO audit_resources SELECT :chain_id, :sequence, unnest(CAST(:resource_ids AS uuid[]))),"
    " origin AS (INSERT INTO audit_origins"
    "            SELECT :chain_id, :sequence, CAST(:salt AS bytea), :origin_address, :origin_user_agent"
    "            WHERE CAST(:salt AS bytea) IS NOT NULL)"
    f" INSERT INTO audit_events ({', '.join(_COLUMNS)})"
    f" VALUES ({', '.join(f'CAST(:{name} AS jsonb)' if name == 'resources' else f':{name}' for name in _COLUMNS)})"
)
_BEYOND = 2**62


@dataclass(frozen=True, slots=True)
class Wanted:
    """A filter of entries; all given conditions must hold."""

    method: str = ""
    user_id: UUID | None = None
    resource_id: UUID | None = None
    code: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None


async def enter(tx: WriteSession, user_id: UUID) -> None:
    """Let the transaction write into the log of an account that was not known when it began."""
    await tx.execute(_ENTER, {"user_id": str(user_id)})


async def lock_head(tx: WriteSession, chain_id: UUID) -> Row[*tuple[Any, ...]]:
    """Lock the head until the transaction ends. Return its sequence, create_time and hash.

    The create_time is None before the first entry.
    """
    return (await tx.execute(_LOCK_HEAD, {"chain_id": chain_id})).one()


async def append(tx: WriteSession, values: Mapping[str, Any]) -> None:
    """Store an entry, its ids, its origin if it has a salt, and the new head.

    One statement, to keep the head locked for a short time.
    """
    await tx.execute(_APPEND, values)


async def list_events(
    tx: ReadSession, chain_id: UUID, wanted: Wanted, before: int | None, limit: int
) -> Sequence[Row[AuditEvent, str | None, str | None]]:
    """Return entries with address and user agent of their origin, newest first, starting after `before`.

    Each condition has an index in this order.
    """
    event: Any = _event_of(chain_id) if wanted.resource_id else AuditEvent
    sequence: Any = AuditResource.sequence if wanted.resource_id else AuditEvent.sequence
    query = select(event, AuditOrigin.address, AuditOrigin.user_agent).order_by(sequence.desc()).limit(limit)
    if wanted.resource_id:
        query = query.select_from(AuditResource).join(event, true()).where(AuditResource.chain_id == chain_id)
        query = query.where(AuditResource.resource_id == wanted.resource_id)
    else:
        query = query.select_from(AuditEvent).where(AuditEvent.chain_id == chain_id)
    query = query.outerjoin(AuditOrigin, _is_origin(event, chain_id))
    for column, value in ((event.method, wanted.method), (event.user_id, wanted.user_id), (event.code, wanted.code)):
        if value:
            query = query.where(column == value)
    # Times never decrease along a chain, so that a time range is a range of it.
    if wanted.start_time:
        query = query.where(sequence >= _first_since(chain_id, wanted.start_time))
    if wanted.end_time:
        query = query.where(sequence < _first_since(chain_id, wanted.end_time))
    if before:
        query = query.where(sequence < before)
    return (await tx.execute(query)).all()


def _event_of(chain_id: UUID) -> Any:
    """Return the entry of an AuditResource, looked up for each row: a plain join may read the whole chain."""
    its_event = select(AuditEvent).where(_same_entry(), AuditEvent.chain_id == chain_id).correlate(AuditResource)
    return aliased(AuditEvent, its_event.limit(1).lateral())


def _is_origin(event: Any, chain_id: UUID) -> Any:
    return (AuditOrigin.chain_id == chain_id) & (AuditOrigin.sequence == event.sequence)


def _same_entry() -> Any:
    return (AuditResource.chain_id == AuditEvent.chain_id) & (AuditResource.sequence == AuditEvent.sequence)


def _first_since(chain_id: UUID, time: datetime) -> Any:
    """Return the number of the first entry at or after a time; greater than all if there is none."""
    since = AuditEvent.chain_id == chain_id, AuditEvent.create_time >= time
    first = select(AuditEvent.sequence).where(*since).order_by(AuditEvent.create_time, AuditEvent.sequence).limit(1)
    return select(func.coalesce(first.scalar_subquery(), _BEYOND)).scalar_subquery()


async def find_end(tx: ReadSession, chain_id: UUID) -> Row[int, bytes, int]:
    """Return sequence and hash of the head (0 and empty without one) and the greatest number of an entry.

    A single statement, so that they belong together.
    """
    head = select(AuditHead.sequence, AuditHead.hash).where(AuditHead.chain_id == chain_id).subquery()
    last = select(func.max(AuditEvent.sequence).label("sequence")).where(AuditEvent.chain_id == chain_id).subquery()
    columns = func.coalesce(head.c.sequence, 0), func.coalesce(head.c.hash, b""), func.coalesce(last.c.sequence, 0)
    return (await tx.execute(select(*columns).select_from(last.outerjoin(head, true())))).one()


async def list_forward(tx: ReadSession, chain_id: UUID, after: int | None, limit: int) -> Sequence[Any]:
    """Return entries in ascending order, each with the `ids` by which it is found and, unless erased, its origin."""
    ids = select(AuditResource.resource_id).where(_same_entry()).order_by(AuditResource.resource_id)
    array = func.array(ids.correlate(AuditEvent).scalar_subquery())
    origin = AuditOrigin.address.label("origin_address"), AuditOrigin.user_agent.label("origin_user_agent")
    query = select(*AuditEvent.__table__.columns, AuditOrigin.salt, *origin, array.label("ids"))
    query = query.outerjoin(AuditOrigin, _is_origin(AuditEvent, chain_id)).where(AuditEvent.chain_id == chain_id)
    if after is not None:
        query = query.where(AuditEvent.sequence > after)
    return (await tx.execute(query.order_by(AuditEvent.sequence).limit(limit))).all()
