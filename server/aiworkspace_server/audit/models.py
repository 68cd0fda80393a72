"""Tables of the audit log. `chain_id` is the organization or person whose log it is."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import LargeBinary
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


class AuditHead(Base):
    """The end of a chain, which whoever appends to it locks."""

    __tablename__ = "audit_heads"

    chain_id: Mapped[UUID] = mapped_column(primary_key=True)
    sequence: Mapped[int]
    create_time: Mapped[datetime]
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class AuditEvent(Base):
    """The record of one call. Never changed: the server's role may not."""

    __tablename__ = "audit_events"

    chain_id: Mapped[UUID] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    create_time: Mapped[datetime]  # never before that of the entry before
    method: Mapped[str]
    user_id: Mapped[UUID | None]
    session_id: Mapped[UUID | None]
    api_key_id: Mapped[UUID | None]
    role: Mapped[str]
    address: Mapped[str]
    user_agent: Mapped[str]
    request_id: Mapped[str]
    resources: Mapped[dict[str, str]] = mapped_column(JSONB)
    code: Mapped[str]
    reason: Mapped[str]
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class AuditResource(Base):
    """An id in an entry's resources, by which the entry is found."""

    __tablename__ = "audit_resources"

    chain_id: Mapped[UUID] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    resource_id: Mapped[UUID] = mapped_column(primary_key=True)
