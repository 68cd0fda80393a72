"""Queries on teams. The tenant is set by the session, never here."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, Row, delete, func, select

from ..auth.models import User
from ..kit.postgres import ReadSession, WriteSession
from ..orgs.models import Team, TeamMember


async def lock_team(tx: WriteSession, team_id: UUID) -> Team | None:
    return (await tx.execute(select(Team).where(Team.id == team_id).with_for_update())).scalar_one_or_none()


async def list_teams(tx: ReadSession, after: UUID | None, limit: int) -> Sequence[Row[Team, int]]:
    """Return teams with their number of members, oldest first, starting after `after`."""
    query = select(Team, _member_count()).order_by(Team.id).limit(limit)
    if after:
        query = query.where(Team.id > after)
    return (await tx.execute(query)).all()


async def count_members(tx: ReadSession, team_id: UUID) -> int:
    return (await tx.execute(select(_member_count()).select_from(Team).where(Team.id == team_id))).scalar_one()


def _member_count() -> ColumnElement[int]:
    members = TeamMember.org_id == Team.org_id, TeamMember.team_id == Team.id
    return select(func.count()).select_from(TeamMember).where(*members).correlate(Team).scalar_subquery()


async def find_member(tx: ReadSession, team_id: UUID, user_id: UUID) -> TeamMember | None:
    where = TeamMember.team_id == team_id, TeamMember.user_id == user_id
    return (await tx.execute(select(TeamMember).where(*where))).scalar_one_or_none()


async def list_members(
    tx: ReadSession, team_id: UUID, after: UUID | None, limit: int
) -> Sequence[Row[TeamMember, str]]:
    """Return members with their names, by id, starting after `after`."""
    query = select(TeamMember, User.display_name).join(User, User.id == TeamMember.user_id)
    query = query.where(TeamMember.team_id == team_id)
    if after:
        query = query.where(TeamMember.user_id > after)
    return (await tx.execute(query.order_by(TeamMember.user_id).limit(limit))).all()


async def remove_member(tx: WriteSession, team_id: UUID, user_id: UUID) -> bool:
    """Remove a member. Return False if the person is not in the team."""
    where = TeamMember.team_id == team_id, TeamMember.user_id == user_id
    result = await tx.execute(delete(TeamMember).where(*where).returning(TeamMember.user_id))
    return result.first() is not None
