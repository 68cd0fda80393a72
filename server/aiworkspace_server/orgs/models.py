"""Tables of organizations, memberships, invitations, custom roles and teams."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, ForeignKeyConstraint, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
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
    erase_time: Mapped[datetime | None]  # when its content was erased, after its deletion
    call_ceilings: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict)  # that the operator set
    suspend_time: Mapped[datetime | None]  # since when an operator of the server has suspended it
    state_reason: Mapped[str] = mapped_column(default="")  # why it was suspended or, later, reinstated


class CustomRole(Base):
    """A role that an organization made for itself."""

    __tablename__ = "custom_roles"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    permissions: Mapped[list[str]] = mapped_column(ARRAY(Text()))
    version: Mapped[int] = mapped_column(default=1)
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]


class Membership(Base):
    __tablename__ = "memberships"
    __table_args__ = (ForeignKeyConstraint(["org_id", "custom_role_id"], ["custom_roles.org_id", "custom_roles.id"]),)

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), primary_key=True)
    role: Mapped[str]  # viewer, member, admin, owner, billing, custom
    custom_role_id: Mapped[UUID | None]
    version: Mapped[int] = mapped_column(default=1)
    create_time: Mapped[datetime]
    suspend_time: Mapped[datetime | None]
    creator_key_id: Mapped[UUID | None]  # API key with which a service account was created
    call_limits: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict)  # that were set for a service account


class Invitation(Base):
    __tablename__ = "invitations"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str]
    role: Mapped[str]
    custom_role_id: Mapped[UUID | None]
    inviter_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    create_time: Mapped[datetime]
    expire_time: Mapped[datetime]
    accept_time: Mapped[datetime | None]
    accepter_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id"))
    revoke_time: Mapped[datetime | None]
    creator_key_id: Mapped[UUID | None]  # API key with which it was created


class Team(Base):
    __tablename__ = "teams"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    version: Mapped[int] = mapped_column(default=1)
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]


class TeamMember(Base):
    __tablename__ = "team_members"
    __table_args__ = (
        ForeignKeyConstraint(["org_id", "team_id"], ["teams.org_id", "teams.id"], ondelete="CASCADE"),
        ForeignKeyConstraint(["org_id", "user_id"], ["memberships.org_id", "memberships.user_id"], ondelete="CASCADE"),
    )

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    team_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    create_time: Mapped[datetime]
