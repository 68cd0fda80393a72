"""Tables of the claims of runs, of the ledger, and of what is added up from it."""

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


class RunClaim(Base):
    """What a run holds while it is in progress: its request_id for good, its conversation until it is closed.

    The database keeps one per request_id and one open one per conversation. `server_id` is the server that works on it.
    """

    __tablename__ = "run_claims"

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    run_id: Mapped[UUID] = mapped_column(primary_key=True)
    workspace_id: Mapped[UUID]
    conversation_id: Mapped[UUID]
    user_id: Mapped[UUID]
    request_id: Mapped[UUID | None]
    content_hash: Mapped[bytes]
    state: Mapped[str]  # open, closed
    server_id: Mapped[UUID | None]
    stop: Mapped[str | None]  # cancelled, when somebody wants it to end
    create_time: Mapped[datetime]


class Server(Base):
    """A process that works on runs, for as long as it renews its lease."""

    __tablename__ = "servers"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]  # host/pid, for the log
    start_time: Mapped[datetime]
    lease_end_time: Mapped[datetime]


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
    reserved_nanos: Mapped[int]  # what the entry adds to what is reserved: all of an attempt's add up to nothing
    cost_nanos: Mapped[int]  # what the entry adds to what was spent
    currency: Mapped[str]
    price_version: Mapped[str]
    create_time: Mapped[datetime]


class UsageRollup(Base):
    """Sums of what was spent in an hour or a day, by the time of the entries. Can be made anew from the ledger."""

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
