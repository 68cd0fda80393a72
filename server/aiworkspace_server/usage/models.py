"""Tables of the ledger and of what is added up from it."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Integer
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base

NO_KEY = UUID(int=0)  # stands in roll-ups for the runs that were started without an API key
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
    """What was reserved for an attempt, or how its reservation ended. Never changed: the server's role may not."""

    __tablename__ = "ledger_entries"

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]  # reserve, settle, release, adjust
    workspace_id: Mapped[UUID]
    conversation_id: Mapped[UUID]
    run_id: Mapped[UUID]
    attempt: Mapped[int] = mapped_column(Integer())
    run_time: Mapped[datetime]  # when the run began: it counts in the budgets of that time
    user_id: Mapped[UUID]
    key_id: Mapped[UUID | None]  # the API key with which the run was started
    key_root_id: Mapped[UUID | None]  # the first key of its line of rotations; None in entries of older servers
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
    reserved_nanos: Mapped[int]  # what the entry adds to what is reserved: all of an attempt's add up to nothing
    cost_nanos: Mapped[int]  # what the entry adds to what was spent
    currency: Mapped[str]
    price_version: Mapped[str]
    create_time: Mapped[datetime]


class UsageRollup(Base):
    """Sums of what runs spent that began in an hour or a day, in UTC. Can be made anew from the ledger."""

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
