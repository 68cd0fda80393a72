"""Table of workspaces."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


class Workspace(Base):
    __tablename__ = "workspaces"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True, unique=True)
    name: Mapped[str]
    default_model: Mapped[str]
    system_prompt: Mapped[str]
    version: Mapped[int] = mapped_column(default=1)
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]
    delete_time: Mapped[datetime | None]
