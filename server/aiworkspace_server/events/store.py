"""Queries on events. The tenant is set by the session, never here."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import CursorResult, delete, exists, func, select, text

from ..kit.postgres import ReadSession, WriteSession
from .models import Event, EventHead

_APPEND = text("""
  WITH head AS (
    INSERT INTO event_heads AS h (org_id, sequence)
    SELECT id, :count FROM orgs WHERE id = :org_id AND delete_time IS NULL
    ON CONFLICT (org_id) DO UPDATE SET sequence = h.sequence + :count
    RETURNING sequence
  ), new AS (
    INSERT INTO events (org_id, sequence, id, type, create_time, resources)
    SELECT :org_id, head.sequence - :count + n.number, n.id, n.type, :time, CAST(n.resources AS jsonb)
    FROM head, unnest(CAST(:ids AS uuid[]), CAST(:types AS text[]), CAST(:resources AS text[]))
      WITH ORDINALITY AS n(id, type, resources, number)
  )
  SELECT sequence FROM head
""")
_LIST_HEADS = text("SELECT org_id, sequence FROM list_event_heads(CAST(:org_ids AS uuid[]))")
_LIST_OLD = text("SELECT org_id FROM list_old_event_orgs(:before, :limit) AS old(org_id)")
_LOCKED_HEAD = select(EventHead.sequence)


async def append(tx: WriteSession, org_id: UUID, time: datetime, events: Sequence[Any]) -> int | None:
    """Number and store events that have id, type and resources. Return the number of the last one.

    Stores nothing, and returns None, if the organization was deleted: what is erased must not come back. Locks the
    organization's head until the transaction ends. A single statement, to lock it for a short time.
    """
    values: dict[str, Any] = {"org_id": org_id, "time": time, "count": len(events)}
    values |= {"ids": [event.id for event in events], "types": [event.type for event in events]}
    values["resources"] = [orjson.dumps(event.resources).decode() for event in events]
    return (await tx.execute(_APPEND, values)).scalar_one_or_none()


async def has_event(tx: ReadSession, event_id: UUID) -> bool:
    return bool((await tx.execute(select(exists().where(Event.id == event_id)))).scalar_one())


async def find_head(tx: ReadSession) -> int:
    """Return the number of the organization's latest event, 0 if there was none."""
    return (await tx.execute(_LOCKED_HEAD)).scalar_one_or_none() or 0


async def wait_for_writers(tx: WriteSession) -> None:
    """Wait until transactions that have numbered events have ended. New ones wait until this one ends."""
    await tx.execute(_LOCKED_HEAD.with_for_update(read=True))


async def hold_back(tx: WriteSession) -> None:
    """Wait as `wait_for_writers`, and let others that call it wait for this transaction.

    Locks on what receives events are taken after this one, as they are when events are appended.
    """
    await tx.execute(_LOCKED_HEAD.with_for_update(key_share=True))


async def list_events(tx: ReadSession, after: int, limit: int) -> Sequence[Event]:
    """Return events, oldest first, starting after `after`."""
    query = select(Event).where(Event.sequence > after).order_by(Event.sequence).limit(limit)
    return (await tx.execute(query)).scalars().all()


async def list_heads(tx: ReadSession, org_ids: Collection[UUID]) -> dict[UUID, int]:
    """Return the number of the latest event of each of these organizations that has one."""
    rows = await tx.execute(_LIST_HEADS, {"org_ids": list(org_ids)})
    return {row.org_id: row.sequence for row in rows}


async def list_orgs_with_old(tx: ReadSession, before: datetime, limit: int) -> Sequence[UUID]:
    """Return some organizations with events from before a time: those of the `limit` oldest events."""
    return (await tx.execute(_LIST_OLD, {"before": before, "limit": limit})).scalars().all()


async def delete_old(tx: WriteSession, before: datetime, limit: int) -> int:
    """Delete the oldest events, of which the last is from before a time. Return how many.

    Clocks of servers differ, so times may decrease a little along the numbers, but what is kept must have no gap.
    """
    last = select(func.max(Event.sequence)).where(Event.create_time < before).scalar_subquery()
    some = select(Event.sequence).where(Event.sequence <= last).order_by(Event.sequence).limit(limit)
    result = await tx.execute(delete(Event).where(Event.sequence.in_(some)))
    assert isinstance(result, CursorResult)
    return result.rowcount
