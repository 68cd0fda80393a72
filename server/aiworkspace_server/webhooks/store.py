"""Queries on webhook endpoints and deliveries. The tenant is set by the session, never here."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, CursorResult, Row, Select, func, or_, select, text, update

from ..events.models import Event
from ..kit.postgres import ReadSession, WriteSession
from .models import DeliveryState, WebhookDelivery, WebhookEndpoint

MOST_ATTEMPTS_KEPT = 20

_FAN_OUT = text("""
  WITH new AS (
    INSERT INTO webhook_deliveries
      (org_id, webhook_endpoint_id, sequence, state, attempt_count, next_attempt_time, attempts)
    SELECT e.org_id, e.id, n.sequence, 'pending', 0, greatest(CAST(:time AS timestamptz), e.resume_time), '[]'
    FROM webhook_endpoints e,
      unnest(CAST(:sequences AS bigint[]), CAST(:types AS text[]), CAST(:receivers AS uuid[]))
        AS n(sequence, type, receiver)
    WHERE e.enabled AND CASE WHEN n.receiver IS NULL THEN e.event_types = '{}' OR n.type = ANY (e.event_types)
                             ELSE n.receiver = e.id END
    FOR KEY SHARE OF e
    RETURNING webhook_endpoint_id
  )
  SELECT id, answering FROM webhook_endpoints WHERE id IN (SELECT webhook_endpoint_id FROM new) ORDER BY id
""")
_RECORD = text(f"""
  UPDATE webhook_deliveries
  SET attempts = CASE WHEN jsonb_array_length(attempts) < {MOST_ATTEMPTS_KEPT} THEN attempts ELSE attempts - 0 END
                 || CAST(:attempt AS jsonb),
      attempt_count = attempt_count + 1,
      state = :state,
      next_attempt_time = :next_attempt_time
  WHERE webhook_endpoint_id = :endpoint_id AND sequence = :sequence AND state = 'pending'
""")
_PUT_OFF = text("""
  UPDATE webhook_deliveries SET next_attempt_time = :time
  WHERE webhook_endpoint_id = :endpoint_id AND next_attempt_time < :time
""")
_END = text("""
  UPDATE webhook_deliveries SET state = 'failed', next_attempt_time = NULL
  WHERE webhook_endpoint_id = :endpoint_id AND state = 'pending'
""")
_REPLAY = text("""
  INSERT INTO webhook_deliveries AS d
    (org_id, webhook_endpoint_id, sequence, state, attempt_count, next_attempt_time, attempts)
  SELECT n.org_id, :endpoint_id, n.sequence, 'pending', 0, :time, '[]'
  FROM events n WHERE n.sequence = ANY (CAST(:sequences AS bigint[]))
  ON CONFLICT (org_id, webhook_endpoint_id, sequence)
    DO UPDATE SET state = 'pending', attempt_count = 0, next_attempt_time = :time
""")
_LIST_DUE = text("SELECT org_id, id, answering FROM list_due_webhooks(:before)")
_LIST_ORGS = text("SELECT list_webhook_orgs()")


@dataclass(frozen=True, slots=True)
class Range:
    """Events that are wanted. `types` are names; empty means all."""

    types: Sequence[str]
    after_sequence: int = 0
    last_sequence: int = 0  # 0: no bound
    start_time: datetime | None = None
    end_time: datetime | None = None


async def find_endpoint(tx: ReadSession, endpoint_id: UUID) -> WebhookEndpoint | None:
    return (await tx.execute(_by_id(endpoint_id))).scalar_one_or_none()


async def lock_endpoint(tx: WriteSession, endpoint_id: UUID) -> WebhookEndpoint | None:
    return (await tx.execute(_by_id(endpoint_id).with_for_update(key_share=True))).scalar_one_or_none()


def _by_id(endpoint_id: UUID) -> Select[WebhookEndpoint]:
    return select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id)


async def count_endpoints(tx: ReadSession) -> int:
    return (await tx.execute(select(func.count()).select_from(WebhookEndpoint))).scalar_one()


async def list_endpoints(tx: ReadSession, after: UUID | None, limit: int) -> Sequence[WebhookEndpoint]:
    """Return endpoints, oldest first, starting after `after`."""
    query = select(WebhookEndpoint).order_by(WebhookEndpoint.id).limit(limit)
    if after:
        query = query.where(WebhookEndpoint.id > after)
    return (await tx.execute(query)).scalars().all()


async def lock_endpoints(tx: WriteSession) -> Sequence[WebhookEndpoint]:
    return (await tx.execute(select(WebhookEndpoint).order_by(WebhookEndpoint.id).with_for_update())).scalars().all()


async def list_orgs(tx: ReadSession) -> Sequence[UUID]:
    """Return the organizations with endpoints, of all tenants."""
    return (await tx.execute(_LIST_ORGS)).scalars().all()


async def fan_out(
    tx: WriteSession, time: datetime, events: Sequence[Event], receivers: Sequence[UUID | None]
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Store a delivery of each event to each endpoint that gets it. Return id and `answering` of these endpoints.

    `receivers` has, for each event, the endpoint that alone gets it, whatever its types are.
    """
    values = {"time": time, "sequences": [event.sequence for event in events], "receivers": list(receivers)}
    return (await tx.execute(_FAN_OUT, values | {"types": [event.type for event in events]})).all()


async def list_due(
    tx: ReadSession, endpoint_id: UUID, time: datetime, limit: int
) -> Sequence[Row[WebhookDelivery, Event]]:
    """Return deliveries to attempt now, with their events: those that are due for the longest time."""
    query = select(WebhookDelivery, Event).join(Event, Event.sequence == WebhookDelivery.sequence)
    query = query.where(WebhookDelivery.webhook_endpoint_id == endpoint_id, WebhookDelivery.next_attempt_time <= time)
    order = WebhookDelivery.next_attempt_time, WebhookDelivery.sequence
    return (await tx.execute(query.order_by(*order).limit(limit))).all()


async def record(
    tx: WriteSession,
    delivery: WebhookDelivery,
    attempt: dict[str, Any],
    state: DeliveryState,
    next_attempt_time: datetime | None,
) -> bool:
    """Store an attempt. Return False if the delivery was ended or deleted meanwhile: nothing is stored then."""
    values = {"endpoint_id": delivery.webhook_endpoint_id, "sequence": delivery.sequence, "state": state}
    values |= {"next_attempt_time": next_attempt_time, "attempt": orjson.dumps(attempt).decode()}
    result = await tx.execute(_RECORD, values)
    assert isinstance(result, CursorResult)
    return bool(result.rowcount)


async def put_off(tx: WriteSession, endpoint_id: UUID, time: datetime) -> None:
    """Attempt nothing that is pending before a time."""
    await tx.execute(_PUT_OFF, {"endpoint_id": endpoint_id, "time": time})


async def end_pending(tx: WriteSession, endpoint_id: UUID) -> None:
    await tx.execute(_END, {"endpoint_id": endpoint_id})


async def note_answer(tx: WriteSession, endpoint_id: UUID) -> None:
    """Note that the endpoint works, unless that is known."""
    changed = or_(WebhookEndpoint.answering.is_(False), WebhookEndpoint.fail_time.is_not(None))
    values: dict[str, Any] = {"answering": True, "fail_time": None}  # resume_time holds: another attempt may set it now
    await tx.execute(update(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id, changed).values(values))


async def list_wanted(tx: ReadSession, wanted: Range, without: str, limit: int) -> Sequence[int]:
    """Return the numbers of events in a range, lowest first, except for those of the type `without`."""
    conditions: list[ColumnElement[bool]] = [Event.sequence > wanted.after_sequence, Event.type != without]
    if wanted.types:
        conditions.append(Event.type.in_(wanted.types))
    if wanted.last_sequence:
        conditions.append(Event.sequence <= wanted.last_sequence)
    if wanted.start_time:
        conditions.append(Event.create_time >= wanted.start_time)
    if wanted.end_time:
        conditions.append(Event.create_time < wanted.end_time)
    query = select(Event.sequence).where(*conditions).order_by(Event.sequence).limit(limit)
    return (await tx.execute(query)).scalars().all()


async def replay(tx: WriteSession, endpoint_id: UUID, sequences: Sequence[int], time: datetime) -> None:
    """Make deliveries of these events pending, from their first attempt on."""
    await tx.execute(_REPLAY, {"endpoint_id": endpoint_id, "sequences": list(sequences), "time": time})


async def list_deliveries(
    tx: ReadSession, endpoint_id: UUID, before: int | None, limit: int
) -> Sequence[Row[WebhookDelivery, Event]]:
    """Return deliveries with their events, newest event first, starting after the number `before`."""
    query = select(WebhookDelivery, Event).join(Event, Event.sequence == WebhookDelivery.sequence)
    query = query.where(WebhookDelivery.webhook_endpoint_id == endpoint_id)
    if before:
        query = query.where(WebhookDelivery.sequence < before)
    return (await tx.execute(query.order_by(WebhookDelivery.sequence.desc()).limit(limit))).all()


async def list_due_endpoints(tx: ReadSession, before: datetime) -> Sequence[Row[*tuple[Any, ...]]]:
    """Return org_id, id and `answering` of the endpoints with deliveries due before a time, of all tenants."""
    return (await tx.execute(_LIST_DUE, {"before": before})).all()


async def note_failure(tx: WriteSession, endpoint_id: UUID, time: datetime, resume_time: datetime | None) -> None:
    """Note that the endpoint fails, from this time on unless it did before."""
    values: dict[str, Any] = {"answering": False, "fail_time": func.coalesce(WebhookEndpoint.fail_time, time)}
    if resume_time:
        values["resume_time"] = resume_time
    await tx.execute(update(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id).values(values))
