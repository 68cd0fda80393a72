"""Queries on workspaces. The tenant is set by the session, never here."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select, text

from ..kit.postgres import ReadSession, WriteSession
from .models import Workspace

_FIND_ORG = text("SELECT find_workspace_org(:workspace_id, :user_id)")


async def find_org_id(tx: ReadSession, workspace_id: UUID, user_id: UUID) -> UUID | None:
    """The organization of a workspace, if the person is a member of it."""
    parameters = {"workspace_id": workspace_id, "user_id": user_id}
    org_id: UUID | None = (await tx.execute(_FIND_ORG, parameters)).scalar_one()
    return org_id


async def find_workspace(tx: ReadSession, workspace_id: UUID) -> Workspace | None:
    query = select(Workspace).where(Workspace.id == workspace_id, Workspace.delete_time.is_(None))
    return (await tx.execute(query)).scalar_one_or_none()


async def lock_workspace(tx: WriteSession, workspace_id: UUID) -> Workspace | None:
    query = select(Workspace).where(Workspace.id == workspace_id, Workspace.delete_time.is_(None)).with_for_update()
    return (await tx.execute(query)).scalar_one_or_none()


async def list_workspaces(tx: ReadSession, after: UUID | None, limit: int) -> Sequence[Workspace]:
    """The oldest first, from the one that follows `after`."""
    query = select(Workspace).where(Workspace.delete_time.is_(None)).order_by(Workspace.id).limit(limit)
    if after:
        query = query.where(Workspace.id > after)
    return (await tx.execute(query)).scalars().all()
