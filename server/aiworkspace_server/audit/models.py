"""Tables of the audit log.

`chain_id` is the id of the organization or person that the log belongs to, or that of the operators' own log.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import LargeBinary
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base

OPERATORS = UUID(int=0)  # the log of what operators of the server do; no organization or person has this id


class AuditHead(Base):
    """The end of a chain. Appending locks this row."""

    __tablename__ = "audit_heads"

    chain_id: Mapped[UUID] = mapped_column(primary_key=True)
    sequence: Mapped[int]
    create_time: Mapped[datetime]
    hash: Mapped[bytes] = mapped_column(LargeBinary)


class AuditEvent(Base):
    """The record of one call. Append-only: the server's role has no other privilege.

    Address and user agent are digests of what AuditOrigin has. Entries of earlier releases have them as they were.
    """

    __tablename__ = "audit_events"

    chain_id: Mapped[UUID] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    create_time: Mapped[datetime]  # never earlier than that of the previous entry
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


class AuditOrigin(Base):
    """From where the call of an entry came. Deleting it leaves the chain as it is."""

    __tablename__ = "audit_origins"

    chain_id: Mapped[UUID] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    salt: Mapped[bytes] = mapped_column(LargeBinary)
    address: Mapped[str]
    user_agent: Mapped[str]


class AuditResource(Base):
    """An id in an entry's resources, by which the entry is found."""

    __tablename__ = "audit_resources"

    chain_id: Mapped[UUID] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    resource_id: Mapped[UUID] = mapped_column(primary_key=True)
