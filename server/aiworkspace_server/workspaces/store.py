"""Queries on workspaces. The tenant is set by the session, never here."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, and_, false, or_, select, text, true

from ..auth.authority import ADMINISTER, Principal, Scope
from ..kit.postgres import ReadSession, WriteSession
from ..orgs.models import TeamMember
from .models import Workspace, WorkspaceMember

_FIND_WORKSPACE = text("SELECT * FROM find_workspace(:workspace_id, :user_id)")


async def find_scope(tx: ReadSession, workspace_id: UUID, user_id: UUID) -> Scope | None:
    """Where a workspace lies and which roles somebody has in it, if they are a member of its organization."""
    row = (await tx.execute(_FIND_WORKSPACE, {"workspace_id": workspace_id, "user_id": user_id})).one_or_none()
    if row is None:
        return None
    roles = tuple((found["role"], UUID(found["team_id"]) if found["team_id"] else None) for found in row.roles)
    return Scope(row.org_id, workspace_id, row.visibility == "org", roles)


async def find_workspace(tx: ReadSession, workspace_id: UUID) -> Workspace | None:
    query = select(Workspace).where(Workspace.id == workspace_id, Workspace.delete_time.is_(None))
    return (await tx.execute(query)).scalar_one_or_none()


async def lock_workspace(tx: WriteSession, workspace_id: UUID) -> Workspace | None:
    query = select(Workspace).where(Workspace.id == workspace_id, Workspace.delete_time.is_(None)).with_for_update()
    return (await tx.execute(query)).scalar_one_or_none()


async def list_workspaces(
    tx: ReadSession, caller: Principal, org_id: UUID, after: UUID | None, limit: int
) -> Sequence[Workspace]:
    """Those that the caller may see, the oldest first, from the one that follows `after`."""
    visible = Workspace.delete_time.is_(None), _seen_by(caller, caller.memberships[org_id].permissions)
    query = select(Workspace).where(*visible).order_by(Workspace.id).limit(limit)
    if after:
        query = query.where(Workspace.id > after)
    return (await tx.execute(query)).scalars().all()


def _seen_by(caller: Principal, permissions: frozenset[str]) -> ColumnElement[bool]:
    """What `authority.sees` says of one workspace, as a condition on all; with the caller's permissions in the org."""
    in_teams = select(TeamMember.team_id).where(TeamMember.user_id == caller.user_id)
    own = or_(WorkspaceMember.user_id == caller.user_id, WorkspaceMember.team_id.in_(in_teams))
    condition: ColumnElement[bool] = Workspace.id.in_(select(WorkspaceMember.workspace_id).where(own))
    if ADMINISTER in permissions:
        condition = true()
    elif "workspace.read" in permissions:
        condition = or_(Workspace.visibility == "org", condition)
    if caller.key and "workspace.read" not in caller.key.permissions:
        return false()
    if caller.key and caller.key.workspace_ids is not None:
        condition = and_(condition, Workspace.id.in_(caller.key.workspace_ids))
    return condition
