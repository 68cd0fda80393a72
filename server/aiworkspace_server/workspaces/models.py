"""Tables of workspaces and their members."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Computed, ForeignKey, ForeignKeyConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


class Workspace(Base):
    __tablename__ = "workspaces"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True, unique=True)
    name: Mapped[str]
    default_model: Mapped[str]
    system_prompt: Mapped[str]
    visibility: Mapped[str] = mapped_column(default="org")  # org, members
    retrieval: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))  # a Retrieval
    version: Mapped[int] = mapped_column(default=1)
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]
    delete_time: Mapped[datetime | None]
    erase_time: Mapped[datetime | None]  # when its content was erased, after its deletion


class WorkspaceMember(Base):
    """A person, service account or team in a workspace."""

    __tablename__ = "workspace_members"
    __table_args__ = (
        ForeignKeyConstraint(["org_id", "workspace_id"], ["workspaces.org_id", "workspaces.id"], ondelete="CASCADE"),
        ForeignKeyConstraint(["org_id", "user_id"], ["memberships.org_id", "memberships.user_id"], ondelete="CASCADE"),
        ForeignKeyConstraint(["org_id", "team_id"], ["teams.org_id", "teams.id"], ondelete="CASCADE"),
    )

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    workspace_id: Mapped[UUID] = mapped_column(primary_key=True)
    member_id: Mapped[UUID] = mapped_column(Computed("coalesce(user_id, team_id)", persisted=True), primary_key=True)
    user_id: Mapped[UUID | None]
    team_id: Mapped[UUID | None]
    role: Mapped[str]  # viewer, editor, manager
    create_time: Mapped[datetime]
