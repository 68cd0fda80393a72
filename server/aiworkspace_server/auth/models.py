"""Tables of accounts and sessions. They belong to people, not to tenants."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


class User(Base):
    """A person or, without email address and password, a service account of an organization.

    A deleted account keeps its id and times, because the ledger and audit logs refer to it.
    """

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(default="person")  # person, service
    email: Mapped[str | None]
    display_name: Mapped[str]
    password_hash: Mapped[str | None]
    verify_time: Mapped[datetime | None]  # when the email address was verified
    request_id: Mapped[UUID | None]  # of the Register call, so that it can be repeated
    created_org_count: Mapped[int] = mapped_column(default=0)  # including deleted ones
    version: Mapped[int] = mapped_column(default=1)
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]
    delete_time: Mapped[datetime | None]
    erase_time: Mapped[datetime | None]  # when its content was erased, after its deletion


class Session(Base):
    """A sign-in. `refresh_id` is that of the valid refresh token; the previous one is accepted after a lost reply."""

    __tablename__ = "sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    device_name: Mapped[str]
    address: Mapped[str]
    user_agent: Mapped[str]
    refresh_id: Mapped[UUID]
    previous_refresh_id: Mapped[UUID | None]
    refresh_time: Mapped[datetime]  # of the last refresh, by the clock of PostgreSQL
    issue_time: Mapped[datetime]  # of the current tokens, by the clock of the server that made them
    create_time: Mapped[datetime]
    last_use_time: Mapped[datetime]
    expire_time: Mapped[datetime]
    revoke_time: Mapped[datetime | None]
