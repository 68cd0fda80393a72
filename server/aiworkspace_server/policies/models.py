"""Tables of model policies and of organizations' provider keys."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, LargeBinary
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


class ModelPolicy(Base):
    """The policy of an organization or of one of its workspaces."""

    __tablename__ = "model_policies"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    scope_id: Mapped[UUID] = mapped_column(primary_key=True)  # the workspace, or the organization
    workspace_id: Mapped[UUID | None]
    policy: Mapped[dict[str, Any]] = mapped_column(JSONB())  # a Policy
    version: Mapped[int]
    update_time: Mapped[datetime]


class ProviderKey(Base):
    __tablename__ = "provider_keys"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[UUID]  # changes when a key is replaced
    secret: Mapped[bytes] = mapped_column(LargeBinary)  # encrypted by the vault
    hint: Mapped[str]
    creator_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    create_time: Mapped[datetime]
