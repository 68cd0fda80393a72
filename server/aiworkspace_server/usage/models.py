"""Tables of the ledger and its roll-ups."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Integer
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base

NO_KEY = UUID(int=0)  # in roll-ups: runs that were started without an API key
TOKENS = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
)


class LedgerEntry(Base):
    """A reservation of an attempt, its end, or a correction. Append-only: the server's role has no other privilege."""

    __tablename__ = "ledger_entries"

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]  # reserve, settle, release, adjust
    workspace_id: Mapped[UUID]
    conversation_id: Mapped[UUID]
    run_id: Mapped[UUID]
    attempt: Mapped[int] = mapped_column(Integer())
    run_time: Mapped[datetime]  # when the run began; budgets and usage count the entry at this time
    user_id: Mapped[UUID]
    key_id: Mapped[UUID | None]  # API key that started the run
    key_root_id: Mapped[UUID | None]  # first key of its line; None in entries of older servers
    request_id: Mapped[UUID | None]
    model: Mapped[str]
    own_key: Mapped[bool]  # whether the organization's key at the provider was used
    input_tokens: Mapped[int]
    cached_input_tokens: Mapped[int]
    cache_write_tokens: Mapped[int]
    output_tokens: Mapped[int]
    reasoning_tokens: Mapped[int]
    input_audio_tokens: Mapped[int]
    output_audio_tokens: Mapped[int]
    estimated: Mapped[bool]
    above_limit: Mapped[bool]  # the provider counted more than the request allowed
    reserved_nanos: Mapped[int]  # change of the reserved amount; those of an ended attempt add up to 0
    cost_nanos: Mapped[int]  # change of the amount spent
    currency: Mapped[str]
    price_version: Mapped[str]
    create_time: Mapped[datetime]


class UsageRollup(Base):
    """Usage and cost of the runs that began in an hour or a day, in UTC. Can be rebuilt from the ledger."""

    __tablename__ = "usage_rollups"

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    period: Mapped[str] = mapped_column(primary_key=True)  # hour, day
    start_time: Mapped[datetime] = mapped_column(primary_key=True)
    workspace_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    key_id: Mapped[UUID] = mapped_column(primary_key=True)  # NO_KEY: none
    model: Mapped[str] = mapped_column(primary_key=True)
    request_count: Mapped[int]
    input_tokens: Mapped[int]
    cached_input_tokens: Mapped[int]
    cache_write_tokens: Mapped[int]
    output_tokens: Mapped[int]
    reasoning_tokens: Mapped[int]
    input_audio_tokens: Mapped[int]
    output_audio_tokens: Mapped[int]
    cost_nanos: Mapped[int]
