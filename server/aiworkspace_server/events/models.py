"""Tables of events."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


class EventHead(Base):
    """The number of an organization's latest event. Numbering locks this row."""

    __tablename__ = "event_heads"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    sequence: Mapped[int]


class Event(Base):
    __tablename__ = "events"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    id: Mapped[UUID]
    type: Mapped[str]  # the event_name of an EventType
    create_time: Mapped[datetime]
    resources: Mapped[dict[str, str]] = mapped_column(JSONB())  # ids by field name
