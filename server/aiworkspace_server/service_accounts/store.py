"""Queries on service accounts and API keys. The tenant is set by the session, never here."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from uuid import UUID

from sqlalchemy import Row, or_, select

from ..auth.models import User
from ..kit.postgres import ReadSession
from ..orgs.models import Membership, TeamMember
from ..workspaces.models import WorkspaceMember
from .models import ApiKey, ApiKeyWorkspace


async def list_accounts(tx: ReadSession, after: UUID | None, limit: int) -> Sequence[Row[Membership, User]]:
    """The oldest first, from the one that follows `after`."""
    query = select(Membership, User).join(User, User.id == Membership.user_id).where(User.kind == "service")
    if after:
        query = query.where(Membership.user_id > after)
    return (await tx.execute(query.order_by(Membership.user_id).limit(limit))).all()


async def list_keys(tx: ReadSession, user_id: UUID | None, before: UUID | None, limit: int) -> Sequence[ApiKey]:
    """The latest first, from the one that follows `before`; of one account when it is given."""
    query = select(ApiKey).order_by(ApiKey.id.desc()).limit(limit)
    if user_id:
        query = query.where(ApiKey.user_id == user_id)
    if before:
        query = query.where(ApiKey.id < before)
    return (await tx.execute(query)).scalars().all()


async def find_key(tx: ReadSession, api_key_id: UUID) -> ApiKey | None:
    return (await tx.execute(select(ApiKey).where(ApiKey.id == api_key_id))).scalar_one_or_none()


async def list_made_with(tx: ReadSession, api_key_ids: Collection[UUID]) -> Sequence[ApiKey]:
    """Keys that were made with one of these, or with one that was, and so on: the latest first."""
    made = select(ApiKey.id).where(ApiKey.creator_key_id.in_(api_key_ids)).cte("made", recursive=True)
    made = made.union(select(ApiKey.id).join(made, ApiKey.creator_key_id == made.c.id))
    query = select(ApiKey).where(ApiKey.id.in_(select(made.c.id))).order_by(ApiKey.id.desc())
    return (await tx.execute(query)).scalars().all()


async def list_keys_of_creator(tx: ReadSession, user_id: UUID) -> Sequence[ApiKey]:
    return (await tx.execute(select(ApiKey).where(ApiKey.creator_id == user_id))).scalars().all()


async def list_accounts_of_keys(
    tx: ReadSession, key_ids: Collection[UUID], limit: int
) -> Sequence[Row[Membership, User]]:
    """Service accounts that were made with one of these keys, the latest first."""
    query = select(Membership, User).join(User, User.id == Membership.user_id)
    query = query.where(Membership.creator_key_id.in_(key_ids)).order_by(Membership.user_id.desc())
    return (await tx.execute(query.limit(limit))).all()


async def workspaces_of_keys(tx: ReadSession, keys: Iterable[ApiKey]) -> Mapping[UUID, Sequence[UUID]]:
    """The workspaces that keys are limited to, by key, in the order of their ids."""
    columns = ApiKeyWorkspace.api_key_id, ApiKeyWorkspace.workspace_id
    whose = ApiKeyWorkspace.api_key_id.in_([key.id for key in keys])
    found = defaultdict[UUID, list[UUID]](list)
    for api_key_id, workspace_id in await tx.execute(select(*columns).where(whose).order_by(*columns)):
        found[api_key_id].append(workspace_id)
    return found


async def workspaces_of_account(tx: ReadSession, user_id: UUID) -> Sequence[UUID]:
    """Those of which it is a member, itself or in a team."""
    in_teams = select(TeamMember.team_id).where(TeamMember.user_id == user_id)
    own = or_(WorkspaceMember.user_id == user_id, WorkspaceMember.team_id.in_(in_teams))
    return (await tx.execute(select(WorkspaceMember.workspace_id).where(own).distinct())).scalars().all()
