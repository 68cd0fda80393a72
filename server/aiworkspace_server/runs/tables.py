"""Tables of the servers at work and of the runs that they work on. All that is said is in documents: see models.py."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


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
    key_id: Mapped[UUID | None]  # of the API key that started it
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
    version: Mapped[str]
    address: Mapped[str]  # on which it takes calls; empty before that
    run_count: Mapped[int]
    draining: Mapped[bool]
