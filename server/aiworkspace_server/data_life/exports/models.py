"""Table of exports."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import ARRAY, ForeignKey, LargeBinary, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from ...kit.postgres import Base


class ExportState(StrEnum):
    """PENDING → RUNNING → READY or FAILED. While it is RUNNING, another server may start again from the beginning."""

    PENDING = "pending"
    RUNNING = "running"
    READY = "ready"
    FAILED = "failed"


IN_PROGRESS = ExportState.PENDING, ExportState.RUNNING


class FailureReason(StrEnum):
    INTERNAL = "internal"
    STORE_UNAVAILABLE = "store_unavailable"


class Export(Base):
    """An export. With a delete_time it is a tombstone, until no server can still store bytes of it."""

    __tablename__ = "exports"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]  # who asked for it
    state: Mapped[str]  # an ExportState
    attempt_count: Mapped[int] = mapped_column(default=0)
    file_id: Mapped[UUID | None]  # of the bytes. Each attempt has its own: who has another one has lost the claim
    left_file_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid), default=list)  # of earlier attempts, to be deleted
    row_count: Mapped[int] = mapped_column(default=0)
    file_count: Mapped[int] = mapped_column(default=0)
    size_bytes: Mapped[int] = mapped_column(default=0)
    sha256: Mapped[bytes | None] = mapped_column(LargeBinary)  # once it is READY
    failure_reason: Mapped[str | None]  # a FailureReason
    create_time: Mapped[datetime]
    start_time: Mapped[datetime | None]  # of the last attempt
    end_time: Mapped[datetime | None]
    expire_time: Mapped[datetime | None]
    delete_time: Mapped[datetime | None]
