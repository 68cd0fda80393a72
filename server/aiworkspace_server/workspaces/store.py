"""Queries on workspaces. The tenant is set by the session, or by the function that is called, never here."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Row, and_, false, func, or_, select, true

from ..auth.authority import ADMINISTER, Principal, Scope
from ..auth.models import User
from ..kit.postgres import Database, ReadSession, WriteSession
from ..orgs.models import Team, TeamMember
from .models import Workspace, WorkspaceMember

_FIND_SCOPE = "SELECT org_id, visibility, roles FROM find_workspace(%s, %s)"
_READ = """
    SELECT name, default_model, system_prompt, visibility, version, create_time, update_time, retrieval
    FROM read_workspace(%s, %s)
"""


class WorkspaceRow(NamedTuple):
    """A workspace as plain values."""

    org_id: UUID
    id: UUID
    name: str
    default_model: str
    system_prompt: str
    visibility: str
    version: int
    create_time: datetime
    update_time: datetime
    retrieval: dict[str, Any] | None


async def find_scope(db: Database, workspace_id: UUID, user_id: UUID) -> Scope | None:
    """Return a workspace's organization and the user's roles in it, or None for users outside the organization."""
    rows = await db.fetch(_FIND_SCOPE, (workspace_id, user_id))
    if not rows:
        return None
    org_id, visibility, found = rows[0]
    roles = tuple((each["role"], UUID(each["team_id"]) if each["team_id"] else None) for each in found)
    return Scope(org_id, workspace_id, visibility == "org", roles)


async def read_workspace(db: Database, org_id: UUID, workspace_id: UUID) -> WorkspaceRow | None:
    """Return a workspace of the organization in one round trip, or None if it has none with this id."""
    rows = await db.fetch(_READ, (org_id, workspace_id))
    return WorkspaceRow(org_id, workspace_id, *rows[0]) if rows else None


async def find_workspace(tx: ReadSession, workspace_id: UUID) -> Workspace | None:
    query = select(Workspace).where(Workspace.id == workspace_id, Workspace.delete_time.is_(None))
    return (await tx.execute(query)).scalar_one_or_none()


async def lock_workspace(tx: WriteSession, workspace_id: UUID) -> Workspace | None:
    there = Workspace.id == workspace_id, Workspace.delete_time.is_(None)
    query = select(Workspace).where(*there).with_for_update(key_share=True)  # see lock_org
    return (await tx.execute(query)).scalar_one_or_none()


async def list_workspaces(
    tx: ReadSession, caller: Principal, org_id: UUID, after: UUID | None, limit: int
) -> Sequence[Workspace]:
    """Return the workspaces that the caller may see, oldest first, starting after `after`."""
    visible = Workspace.delete_time.is_(None), _seen_by(caller, caller.memberships[org_id].permissions)
    query = select(Workspace).where(*visible).order_by(Workspace.id).limit(limit)
    if after:
        query = query.where(Workspace.id > after)
    return (await tx.execute(query)).scalars().all()


def _seen_by(caller: Principal, permissions: frozenset[str]) -> ColumnElement[bool]:
    """Return the condition for workspaces that the caller may see, given their permissions in the organization.

    It must agree with what GetWorkspace allows.
    """
    if caller.key and "workspace.read" not in caller.key.permissions:
        return false()
    members = select(WorkspaceMember.workspace_id).where(_is(caller.user_id))
    condition: ColumnElement[bool] = Workspace.id.in_(members)
    if ADMINISTER in permissions:
        condition = true()
    elif "workspace.read" in permissions:
        condition = or_(Workspace.visibility == "org", condition)
    if caller.key and caller.key.workspace_ids is not None:
        condition = and_(condition, Workspace.id.in_(caller.key.workspace_ids))
    return condition


def _is(user_id: UUID) -> ColumnElement[bool]:
    """Return the condition for memberships of an account and of the teams that it is in."""
    teams = select(TeamMember.team_id).where(TeamMember.user_id == user_id)
    return or_(WorkspaceMember.user_id == user_id, WorkspaceMember.team_id.in_(teams))


async def find_scopes(tx: ReadSession, workspace_ids: Collection[UUID], user_id: UUID) -> list[Scope]:
    """Return the scopes of several workspaces of the tenant, as `find_scope` does for one."""
    own = and_(WorkspaceMember.workspace_id == Workspace.id, _is(user_id))
    query = select(Workspace, WorkspaceMember).outerjoin(WorkspaceMember, own)
    rows = await tx.execute(query.where(Workspace.id.in_(workspace_ids), Workspace.delete_time.is_(None)))
    found: dict[Workspace, list[tuple[str, UUID | None]]] = {}
    for workspace, member in rows:
        roles = found.setdefault(workspace, [])
        if member:
            roles.append((member.role, member.team_id))
    return [Scope(each.org_id, each.id, each.visibility == "org", tuple(roles)) for each, roles in found.items()]


async def find_member(tx: ReadSession, workspace_id: UUID, member_id: UUID) -> WorkspaceMember | None:
    """Return a membership. `member_id` is a user's or a team's id."""
    where = WorkspaceMember.workspace_id == workspace_id, WorkspaceMember.member_id == member_id
    return (await tx.execute(select(WorkspaceMember).where(*where))).scalar_one_or_none()


async def list_members(
    tx: ReadSession, workspace_id: UUID, after: UUID | None, limit: int
) -> Sequence[Row[WorkspaceMember, str]]:
    """Return members with their names, by id, starting after `after`."""
    name = func.coalesce(User.display_name, Team.name)
    query = (
        select(WorkspaceMember, name)
        .outerjoin(User, User.id == WorkspaceMember.user_id)
        .outerjoin(Team, and_(Team.org_id == WorkspaceMember.org_id, Team.id == WorkspaceMember.team_id))
        .where(WorkspaceMember.workspace_id == workspace_id)
    )
    if after:
        query = query.where(WorkspaceMember.member_id > after)
    return (await tx.execute(query.order_by(WorkspaceMember.member_id).limit(limit))).all()


async def list_roles_of_account(tx: ReadSession, user_id: UUID) -> Sequence[WorkspaceMember]:
    """Return the memberships of an account and its teams in workspaces that are not deleted."""
    there = and_(Workspace.id == WorkspaceMember.workspace_id, Workspace.delete_time.is_(None))
    query = select(WorkspaceMember).join(Workspace, there).where(_is(user_id))
    return (await tx.execute(query)).scalars().all()


async def list_roles_of_team(tx: ReadSession, team_id: UUID) -> Sequence[WorkspaceMember]:
    """Return the team's memberships in workspaces that are not deleted."""
    there = and_(Workspace.id == WorkspaceMember.workspace_id, Workspace.delete_time.is_(None))
    query = select(WorkspaceMember).join(Workspace, there).where(WorkspaceMember.team_id == team_id)
    return (await tx.execute(query)).scalars().all()
