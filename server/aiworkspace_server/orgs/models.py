"""Tables of organizations, memberships and invitations."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


class Org(Base):
    __tablename__ = "orgs"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    version: Mapped[int] = mapped_column(default=1)
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]
    delete_time: Mapped[datetime | None]


class Membership(Base):
    __tablename__ = "memberships"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), primary_key=True)
    role: Mapped[str]
    version: Mapped[int] = mapped_column(default=1)
    create_time: Mapped[datetime]


class Invitation(Base):
    __tablename__ = "invitations"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str]
    role: Mapped[str]
    inviter_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    create_time: Mapped[datetime]
    expire_time: Mapped[datetime]
    accept_time: Mapped[datetime | None]
    revoke_time: Mapped[datetime | None]
