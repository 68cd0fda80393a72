"""Reserve before a model is asked, settle when the run has ended: each once, whatever happens in between."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select, text, update
from sqlalchemy.dialects.postgresql import insert

from ..kit.ids import new_id
from ..kit.postgres import ReadSession, WriteSession
from ..kit.timestamps import now
from ..llm.base import TokenUsage
from ..llm.prices import Price
from .models import LedgerEntry, Reservation

_LIST_OPEN = text("SELECT * FROM list_open_reservations()")


async def reserve(tx: WriteSession, values: dict[str, Any]) -> bool:
    """Opens a reservation.

    False when the request_id was used before or the conversation has an open one; `find_request` tells which.
    """
    row = {**values, "state": "open", "create_time": now()}
    claim = insert(Reservation).values(**row).on_conflict_do_nothing().returning(Reservation.run_id)
    return (await tx.execute(claim)).first() is not None


async def find_request(tx: ReadSession, user_id: UUID, request_id: UUID) -> Row[UUID, bytes] | None:
    """Run and content hash of an earlier request of this person."""
    same = Reservation.user_id == user_id, Reservation.request_id == request_id
    query = select(Reservation.run_id, Reservation.content_hash).where(*same)
    return (await tx.execute(query)).one_or_none()


async def settle(tx: WriteSession, run_id: UUID, usage: TokenUsage, price: Price) -> bool:
    """Closes the reservation and writes the ledger entry. False when the run was settled before."""
    reservation = await _close(tx, run_id, "settled")
    if reservation is None:
        return False
    shared = ("org_id", "workspace_id", "conversation_id", "run_id", "user_id", "request_id", "model")
    entry = {name: getattr(reservation, name) for name in shared} | {
        "id": new_id(),
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "estimated": usage.estimated,
        "cost_nanos": price.nanos,
        "currency": price.currency,
        "price_version": price.version,
        "create_time": now(),
    }
    await tx.execute(insert(LedgerEntry).values(**entry))
    return True


async def release(tx: WriteSession, run_id: UUID) -> None:
    """Closes the reservation of a run for which there is nothing to pay."""
    await _close(tx, run_id, "released")


async def withdraw(tx: WriteSession, run_id: UUID) -> None:
    """Releases the reservation of a run that did not come to be. Its request_id may be used again."""
    await tx.execute(update(Reservation).where(Reservation.run_id == run_id).values(state="released", request_id=None))


async def list_open(tx: ReadSession) -> Sequence[Row[*tuple[Any, ...]]]:
    """Organization, run and conversation of every tenant's open reservations: where to clean up after a crash."""
    return (await tx.execute(_LIST_OPEN)).all()


async def _close(tx: WriteSession, run_id: UUID, state: str) -> Row[*tuple[Any, ...]] | None:
    still_open = Reservation.run_id == run_id, Reservation.state == "open"
    closed = update(Reservation).where(*still_open).values(state=state).returning(*Reservation.__table__.columns)
    return (await tx.execute(closed)).one_or_none()
