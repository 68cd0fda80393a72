"""Rules of service accounts and their API keys."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from aiworkspace.v1 import common_pb2 as pb

from ..auth import store as users
from ..auth.api_keys import new_key, secret_hash, visible_part
from ..auth.authority import ADMINISTER, ROLES, WORKSPACE_PERMISSIONS, Principal, sees
from ..auth.models import User
from ..kit.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionMissing
from ..kit.ids import new_id
from ..kit.postgres import WriteSession
from ..kit.timestamps import after, now
from ..orgs import service as orgs
from ..orgs.models import Invitation, Membership
from ..orgs.service import RoleChoice, check_may_grant, lock_org, permissions_of, role_of
from ..orgs.store import invitations_of_keys
from ..workspaces.members import check_holds, check_may_take_all
from ..workspaces.store import find_scopes
from . import store
from .models import ApiKey, ApiKeyWorkspace

_IN_LIMITED_KEYS = WORKSPACE_PERMISSIONS | {"org.read"}


@dataclass(frozen=True, slots=True)
class KeyScopes:
    """What a key may be used for."""

    permissions: frozenset[str]
    workspace_ids: frozenset[UUID] | None  # None: all that its account may see


@dataclass(frozen=True, slots=True)
class RevokedKey:
    """A key that has ended, and what was made with it, also by way of keys that were made with it."""

    key: ApiKey
    created_keys: Sequence[ApiKey]
    created_invitations: Sequence[Invitation]


async def create_service_account(
    tx: WriteSession, org_id: UUID, name: str, role: RoleChoice, caller: Principal
) -> tuple[Membership, User]:
    await lock_org(tx, org_id, "org_id")
    time = now()
    user = User(id=new_id(), kind="service", display_name=name, version=1, create_time=time, update_time=time)
    orgs.check_may_have(user, role, "role")
    await check_may_grant(tx, caller, await permissions_of(tx, role))
    tx.add(user)
    await tx.flush()  # before the membership that refers to it
    member = orgs.new_membership(org_id, user.id, role, caller.key_id)
    tx.add(member)
    return member, user


async def delete_service_account(tx: WriteSession, org_id: UUID, user_id: UUID, caller: Principal) -> None:
    await lock_org(tx, org_id, "org_id")
    await _find_account(tx, user_id)
    await check_may_take_all(tx, org_id, caller, user_id)
    await revoke_made_by(tx, caller, user_id)
    await orgs.remove_member(tx, org_id, user_id, caller)
    account = await users.lock_for_deletion(tx, user_id)
    account.display_name, account.delete_time = "", now()


def read_scopes(permissions: Sequence[str], workspace_ids: frozenset[UUID]) -> KeyScopes:
    """Raises InvalidArgument for permissions that no key, or no key of workspaces, can have."""
    allowed = _IN_LIMITED_KEYS if workspace_ids else ROLES["owner"]
    wrong = {f"permissions[{i}]": _why_not(name) for i, name in enumerate(permissions) if name not in allowed}
    if wrong:
        raise InvalidArgument(wrong)
    return KeyScopes(frozenset(permissions), workspace_ids or None)


def check_future(expire_time: datetime | None) -> None:
    if expire_time and expire_time <= now():
        raise InvalidArgument({"expire_time": "must be in the future"})


async def create_key(
    tx: WriteSession,
    org_id: UUID,
    user_id: UUID,
    name: str,
    scopes: KeyScopes,
    expire_time: datetime | None,
    caller: Principal,
) -> tuple[ApiKey, str]:
    """The key, and what makes it one."""
    await lock_org(tx, org_id, "org_id")
    account = await _find_account(tx, user_id)
    if scopes.workspace_ids:
        await _check_seen(tx, caller, scopes.workspace_ids)
    await _check_may_hand_out(tx, caller, account, scopes)
    return await _add_key(tx, account, name, scopes, expire_time, caller)


async def rotate_key(
    tx: WriteSession,
    org_id: UUID,
    api_key_id: UUID,
    overlap: timedelta,
    expire_time: datetime | None,
    caller: Principal,
) -> tuple[ApiKey, KeyScopes, str]:
    """The new key, its scopes, and what makes it a key."""
    await lock_org(tx, org_id, "org_id")
    old = await _find_key(tx, api_key_id)
    if has_ended(old):
        raise FailedPrecondition(pb.ERROR_REASON_API_KEY_ENDED, "This key has ended: create another one.")
    account, scopes = await _find_account(tx, old.user_id), await scopes_of(tx, old)
    await _check_may_hand_out(tx, caller, account, scopes)
    if expire_time is None and old.expire_time:  # else a rotation would make a key last for ever, unasked
        expire_time = after(now(), old.expire_time - old.create_time)
    end = now() + overlap
    old.expire_time = min(old.expire_time or end, end)
    key, secret = await _add_key(tx, account, old.name, scopes, expire_time, caller, old.line_id)
    return key, scopes, secret


async def revoke_key(
    tx: WriteSession, org_id: UUID, api_key_id: UUID, caller: Principal, *, keep_created: bool
) -> RevokedKey:
    await lock_org(tx, org_id, "org_id")
    key = await _find_key(tx, api_key_id)
    if caller.key_id != key.id:
        await _check_may_take(tx, caller, key)
    key.revoke_time = key.revoke_time or now()
    keys = await store.list_made_with(tx, [key.id])
    invitations = await invitations_of_keys(tx, [key.id, *(each.id for each in keys)])
    if not keep_created:
        for each in keys:
            await _check_may_take(tx, caller, each)
            each.revoke_time = each.revoke_time or now()
        for invitation in invitations:
            await orgs.take_back_invitation(tx, invitation, caller)
    return RevokedKey(key, keys, invitations)


async def revoke_made_by(
    tx: WriteSession, caller: Principal, user_id: UUID, *, of_person: bool = False
) -> tuple[Sequence[UUID], Sequence[UUID]]:
    """Revokes keys that a service account made, with all that was made with them, as far as the caller may.

    `of_person`: also those that a person made. Returns the keys that have ended by this, and those that go on working.
    Call with the organization locked.
    """
    _, user = await orgs.find_member(tx, user_id, "user_id")
    roots = await store.list_keys_of_creator(tx, user_id)
    keys = {key.id: key for key in (*roots, *await store.list_made_with(tx, [key.id for key in roots]))}
    working = [key for key in keys.values() if not has_ended(key)]
    if user.kind == "person" and not of_person:
        return [], [key.id for key in working]
    for key in working:
        with suppress(PermissionMissing):
            await _check_may_take(tx, caller, key)
            key.revoke_time = now()
    for invitation in await invitations_of_keys(tx, keys):
        with suppress(PermissionMissing):
            await orgs.take_back_invitation(tx, invitation, caller)
    await tx.flush()
    return [key.id for key in working if has_ended(key)], [key.id for key in working if not has_ended(key)]


async def _check_may_take(tx: WriteSession, caller: Principal, key: ApiKey) -> None:
    """Taking a key away needs what handing it out needs. One that has ended takes nothing with it."""
    if not has_ended(key):
        scopes = await scopes_of(tx, key)
        await check_may_grant(tx, caller, frozenset({"service_account.manage"}))
        await _check_may_hand_out(tx, caller, await _find_account(tx, key.user_id), scopes)


def has_ended(key: ApiKey) -> bool:
    return key.revoke_time is not None or has_expired(key)


def has_expired(key: ApiKey) -> bool:
    return key.expire_time is not None and key.expire_time <= now()


async def scopes_of(tx: WriteSession, key: ApiKey) -> KeyScopes:
    workspace_ids = (await store.workspaces_of_keys(tx, [key])).get(key.id, ())
    return KeyScopes(frozenset(key.permissions), frozenset(workspace_ids) if key.workspaces_limited else None)


async def _find_account(tx: WriteSession, user_id: UUID) -> Membership:
    member, user = await orgs.find_member(tx, user_id, "user_id")
    if user.kind != "service":
        raise NotFound("user_id")
    return member


async def _find_key(tx: WriteSession, api_key_id: UUID) -> ApiKey:
    key = await store.find_key(tx, api_key_id)
    if key is None:
        raise NotFound("api_key_id")
    return key


async def _check_seen(tx: WriteSession, caller: Principal, workspace_ids: frozenset[UUID]) -> None:
    """Raises NotFound when one is not there, or not for the caller."""
    present = await orgs.principal_now(tx, caller)
    scopes = await find_scopes(tx, workspace_ids, caller.user_id)
    if {scope.workspace_id for scope in scopes if sees(present, scope)} != workspace_ids:
        raise NotFound("workspace_ids")


async def _check_may_hand_out(tx: WriteSession, caller: Principal, account: Membership, scopes: KeyScopes) -> None:
    """Nobody puts into a key what they lack, neither in the organization nor where the account has another role."""
    in_workspaces = scopes.permissions & WORKSPACE_PERMISSIONS
    if scopes.workspace_ids is None:
        await check_may_grant(tx, caller, scopes.permissions)
        if in_workspaces and ADMINISTER in await permissions_of(tx, role_of(account)):
            await _check_reaches_all(tx, caller)
        where: Collection[UUID] = await store.workspaces_of_account(tx, account.user_id)
    else:
        await check_may_grant(tx, caller, scopes.permissions - WORKSPACE_PERMISSIONS)
        where = scopes.workspace_ids
    await check_holds(tx, caller, dict.fromkeys(where, in_workspaces))


async def _check_reaches_all(tx: WriteSession, caller: Principal) -> None:
    """Whether the caller's role counts in all workspaces. A key of such a role reaches them without the permission."""
    [role] = (await orgs.principal_now(tx, caller)).memberships.values()
    if ADMINISTER not in role.permissions:
        raise PermissionMissing(ADMINISTER, "The account reaches workspaces that you do not: limit the key to others.")


async def _add_key(
    tx: WriteSession,
    account: Membership,
    name: str,
    scopes: KeyScopes,
    expire_time: datetime | None,
    creator: Principal,
    root_id: UUID | None = None,
) -> tuple[ApiKey, str]:
    secret = new_key()
    key = ApiKey(
        org_id=account.org_id,
        id=new_id(),
        user_id=account.user_id,
        root_id=root_id,
        name=name,
        prefix=visible_part(secret),
        secret_hash=secret_hash(secret),
        permissions=sorted(scopes.permissions),
        workspaces_limited=scopes.workspace_ids is not None,
        creator_id=creator.user_id,
        creator_key_id=creator.key_id,
        create_time=now(),
        expire_time=expire_time,
    )
    tx.add(key)
    await tx.flush()  # before the workspaces that refer to it
    for workspace_id in scopes.workspace_ids or ():
        tx.add(ApiKeyWorkspace(org_id=account.org_id, api_key_id=key.id, workspace_id=workspace_id))
    return key, secret


def _why_not(permission: str) -> str:
    if permission in ROLES["owner"]:
        return "is not held in workspaces, so a key that is limited to workspaces cannot have it"
    return "is no permission"
