"""Erasures that somebody asked for, with their receipts."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


class Erasure(Base):
    """The erasure of an organization, or of what one person has in it. The row outlives what it is about."""

    __tablename__ = "erasures"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))  # None: of the whole organization
    requester_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    create_time: Mapped[datetime]
    due_time: Mapped[datetime]
    begin_time: Mapped[datetime | None]
    end_time: Mapped[datetime | None]
    cancel_time: Mapped[datetime | None]
    found: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))  # Counted, when it began
    receipt: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))  # Lines
