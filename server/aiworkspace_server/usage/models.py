"""Tables of reservations and of the ledger."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


class Reservation(Base):
    """The claim that a run in progress has on the organization's money, and on its conversation.

    The database keeps one per request_id and one open one per conversation.
    """

    __tablename__ = "reservations"

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    run_id: Mapped[UUID] = mapped_column(primary_key=True)
    workspace_id: Mapped[UUID]
    conversation_id: Mapped[UUID]
    user_id: Mapped[UUID]
    request_id: Mapped[UUID | None]
    content_hash: Mapped[bytes]
    model: Mapped[str]
    amount_nanos: Mapped[int]
    currency: Mapped[str]
    state: Mapped[str]  # open, settled, released
    create_time: Mapped[datetime]


class LedgerEntry(Base):
    """What a run used and cost. Never changed: the server's role may not."""

    __tablename__ = "ledger_entries"

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    workspace_id: Mapped[UUID]
    conversation_id: Mapped[UUID]
    run_id: Mapped[UUID]
    user_id: Mapped[UUID]
    request_id: Mapped[UUID | None]
    model: Mapped[str]
    input_tokens: Mapped[int]
    cached_input_tokens: Mapped[int]
    cache_write_tokens: Mapped[int]
    output_tokens: Mapped[int]
    reasoning_tokens: Mapped[int]
    estimated: Mapped[bool]
    cost_nanos: Mapped[int]
    currency: Mapped[str]
    price_version: Mapped[str]
    create_time: Mapped[datetime]
