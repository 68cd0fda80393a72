"""Tables of API keys. A service account itself is a user with a membership."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, ForeignKeyConstraint, LargeBinary, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


class ApiKey(Base):
    """A key of a service account. Only the hash of its secret is stored."""

    __tablename__ = "api_keys"
    __table_args__ = (
        ForeignKeyConstraint(["org_id", "user_id"], ["memberships.org_id", "memberships.user_id"], ondelete="CASCADE"),
    )

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    root_id: Mapped[UUID | None]  # first key of its line; None: itself
    name: Mapped[str]
    prefix: Mapped[str]
    secret_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    permissions: Mapped[list[str]] = mapped_column(ARRAY(Text()))
    workspaces_limited: Mapped[bool]  # whether it works only in its ApiKeyWorkspaces
    creator_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    creator_key_id: Mapped[UUID | None]  # API key with which it was created
    create_time: Mapped[datetime]
    expire_time: Mapped[datetime | None]
    revoke_time: Mapped[datetime | None]
    last_use_time: Mapped[datetime | None]
    last_use_address: Mapped[str | None]
    call_limits: Mapped[dict[str, Any]] = mapped_column(JSONB, default=dict)  # of its line, whose first key this is

    @property
    def line_id(self) -> UUID:
        """Return the first key of the line. Budgets and usage count the keys of a line together."""
        return self.root_id or self.id


class ApiKeyWorkspace(Base):
    """A workspace that a key is limited to."""

    __tablename__ = "api_key_workspaces"
    __table_args__ = (
        ForeignKeyConstraint(["org_id", "api_key_id"], ["api_keys.org_id", "api_keys.id"], ondelete="CASCADE"),
        ForeignKeyConstraint(["org_id", "workspace_id"], ["workspaces.org_id", "workspaces.id"], ondelete="CASCADE"),
    )

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    api_key_id: Mapped[UUID] = mapped_column(primary_key=True)
    workspace_id: Mapped[UUID] = mapped_column(primary_key=True)
