"""Queries on service accounts and API keys. The tenant is set by the session, never here."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import Row, func, or_, select, text, update

from ..auth.authority import ROLES
from ..auth.models import User
from ..kit.postgres import ReadSession, WriteSession, any_of
from ..kit.timestamps import now
from ..orgs.models import CustomRole, Membership
from .models import ApiKey, ApiKeyWorkspace

_WORKSPACES_OF_ACCOUNTS = text("""
  SELECT user_id, workspace_id FROM workspace_members WHERE user_id = ANY(:user_ids)
  UNION ALL
  SELECT t.user_id, m.workspace_id FROM team_members t JOIN workspace_members m USING (org_id, team_id)
  WHERE t.user_id = ANY(:user_ids)
""")


class HasId(Protocol):
    """A key, or a row with some of its columns."""

    @property
    def id(self) -> UUID: ...


async def list_accounts(tx: ReadSession, after: UUID | None, limit: int) -> Sequence[Row[Membership, User]]:
    """Return service accounts, oldest first, starting after `after`."""
    query = select(Membership, User).join(User, User.id == Membership.user_id).where(User.kind == "service")
    if after:
        query = query.where(Membership.user_id > after)
    return (await tx.execute(query.order_by(Membership.user_id).limit(limit))).all()


async def list_keys(tx: ReadSession, user_id: UUID | None, before: UUID | None, limit: int) -> Sequence[ApiKey]:
    """Return keys, of one account if it is given, newest first, starting after `before`."""
    query = select(ApiKey).order_by(ApiKey.id.desc()).limit(limit)
    if user_id:
        query = query.where(ApiKey.user_id == user_id)
    if before:
        query = query.where(ApiKey.id < before)
    return (await tx.execute(query)).scalars().all()


async def find_key(tx: ReadSession, api_key_id: UUID) -> ApiKey | None:
    return (await tx.execute(select(ApiKey).where(ApiKey.id == api_key_id))).scalar_one_or_none()


async def find_keys(tx: ReadSession, api_key_ids: Collection[UUID]) -> Sequence[ApiKey]:
    """Return the keys with these ids, newest first."""
    query = select(ApiKey).where(ApiKey.id == any_of(api_key_ids)).order_by(ApiKey.id.desc())
    return (await tx.execute(query)).scalars().all()


async def list_made_with(tx: ReadSession, api_key_ids: Collection[UUID]) -> Sequence[UUID]:
    """Return the keys that were created with one of these, directly or through other keys, newest first."""
    made = select(ApiKey.id).where(ApiKey.creator_key_id == any_of(api_key_ids)).cte("made", recursive=True)
    made = made.union(select(ApiKey.id).join(made, ApiKey.creator_key_id == made.c.id))
    return (await tx.execute(select(made.c.id).order_by(made.c.id.desc()))).scalars().all()


async def list_keys_of_creator(tx: ReadSession, user_id: UUID) -> Sequence[UUID]:
    return (await tx.execute(select(ApiKey.id).where(ApiKey.creator_id == user_id))).scalars().all()


async def list_key_ids(tx: ReadSession, user_id: UUID) -> Sequence[UUID]:
    """Return the ids of the keys of an account."""
    return (await tx.execute(select(ApiKey.id).where(ApiKey.user_id == user_id))).scalars().all()


async def list_working(tx: ReadSession, api_key_ids: Collection[UUID]) -> Sequence[Row[UUID, UUID, list[str], bool]]:
    """Return id, account, permissions and workspaces_limited of those keys that have not ended."""
    columns = ApiKey.id, ApiKey.user_id, ApiKey.permissions, ApiKey.workspaces_limited
    unexpired = or_(ApiKey.expire_time.is_(None), ApiKey.expire_time > now())
    where = ApiKey.id == any_of(api_key_ids), ApiKey.revoke_time.is_(None), unexpired
    return (await tx.execute(select(*columns).where(*where))).all()


async def revoke_keys(tx: WriteSession, api_key_ids: Collection[UUID]) -> None:
    await tx.execute(update(ApiKey).where(ApiKey.id == any_of(api_key_ids)).values(revoke_time=now()))


async def set_limits_of_line(tx: WriteSession, line_id: UUID, limits: dict[str, Any]) -> None:
    """Set the limits of calls of all keys of a line."""
    line = func.coalesce(ApiKey.root_id, ApiKey.id) == line_id
    await tx.execute(update(ApiKey).where(line).values(call_limits=limits))


async def list_accounts_of_keys(
    tx: ReadSession, key_ids: Collection[UUID], limit: int
) -> Sequence[Row[Membership, User]]:
    """Return the service accounts that were created with one of these keys, newest first."""
    query = select(Membership, User).join(User, User.id == Membership.user_id)
    query = query.where(Membership.creator_key_id == any_of(key_ids)).order_by(Membership.user_id.desc())
    return (await tx.execute(query.limit(limit))).all()


async def workspaces_of_keys(tx: ReadSession, keys: Iterable[HasId]) -> Mapping[UUID, Sequence[UUID]]:
    """Return the workspaces that keys are limited to, by key, sorted by id."""
    columns = ApiKeyWorkspace.api_key_id, ApiKeyWorkspace.workspace_id
    whose = ApiKeyWorkspace.api_key_id == any_of([key.id for key in keys])
    found = defaultdict[UUID, list[UUID]](list)
    for api_key_id, workspace_id in await tx.execute(select(*columns).where(whose).order_by(*columns)):
        found[api_key_id].append(workspace_id)
    return found


async def permissions_of_accounts(tx: ReadSession, user_ids: Collection[UUID]) -> Mapping[UUID, frozenset[str]]:
    """Return the permissions of service accounts in the organization."""
    query = (
        select(Membership.user_id, Membership.role, CustomRole.permissions)
        .join(User, User.id == Membership.user_id)
        .outerjoin(CustomRole, CustomRole.id == Membership.custom_role_id)
        .where(Membership.user_id == any_of(user_ids), User.kind == "service")
    )
    rows = await tx.execute(query)
    return {user_id: ROLES[role] if own is None else frozenset(own) for user_id, role, own in rows}


async def workspaces_of_accounts(tx: ReadSession, user_ids: Collection[UUID]) -> Mapping[UUID, set[UUID]]:
    """Return the workspaces of which accounts are members, themselves or through a team."""
    found = defaultdict[UUID, set[UUID]](set)
    for user_id, workspace_id in await tx.execute(_WORKSPACES_OF_ACCOUNTS, {"user_ids": list(user_ids)}):
        found[user_id].add(workspace_id)
    return found
