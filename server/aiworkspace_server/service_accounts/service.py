"""Rules of service accounts and their API keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from aiworkspace.v1 import common_pb2 as pb
from aiworkspace.v1 import event_pb2 as event

from ..auth import store as users
from ..auth.api_keys import new_key, secret_hash, visible_part
from ..auth.authority import ROLES, WORKSPACE_PERMISSIONS, Principal, sees
from ..auth.models import User
from ..events.outbox import append
from ..kit.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionMissing
from ..kit.ids import new_id
from ..kit.postgres import WriteSession
from ..kit.timestamps import after, now
from ..orgs import granting
from ..orgs import service as orgs
from ..orgs.granting import RoleChoice, check_may_grant, permissions_of
from ..orgs.holds import check_orgs
from ..orgs.models import Invitation, Membership
from ..orgs.service import lock_org
from ..orgs.store import invitations_of_keys
from ..workspaces.members import check_may_take_all
from ..workspaces.store import find_scopes
from . import store
from .holdings import KeyScopes, read_holdings
from .models import ApiKey, ApiKeyWorkspace

_IN_LIMITED_KEYS = WORKSPACE_PERMISSIONS | {"org.read"}
_BATCH = 200  # keys that are checked together, which blocks the event loop for some milliseconds


@dataclass(frozen=True, slots=True)
class RevokedKey:
    """A revoked key, and what was created with it or with keys that were created with it."""

    key: ApiKey
    created_key_ids: Sequence[UUID]
    created_invitations: Sequence[Invitation]


async def create_service_account(
    tx: WriteSession, org_id: UUID, name: str, role: RoleChoice, caller: Principal, call_limits: dict[str, Any]
) -> tuple[Membership, User]:
    await lock_org(tx, org_id, "org_id")
    time = now()
    user = User(id=new_id(), kind="service", display_name=name, version=1, create_time=time, update_time=time)
    granting.check_may_have(user, role, "role")
    await check_may_grant(tx, caller, await permissions_of(tx, role))
    tx.add(user)
    await tx.flush()  # before the membership that refers to it
    member = orgs.new_membership(org_id, user.id, role, caller.key_id)
    member.call_limits = call_limits
    tx.add(member)
    append(tx, event.EVENT_TYPE_MEMBER_ADDED, user_id=user.id)
    return member, user


async def delete_service_account(
    tx: WriteSession, org_id: UUID, user_id: UUID, caller: Principal
) -> tuple[Sequence[UUID], Sequence[UUID]]:
    """Delete an account. Return the keys of other accounts that were revoked with it, and those that remain valid."""
    await lock_org(tx, org_id, "org_id")
    await find_account(tx, user_id)
    await check_may_take_all(tx, org_id, caller, user_id)
    await check_orgs(tx, [org_id])  # its conversations are erased
    own = set(await store.list_key_ids(tx, user_id))  # deleted with the account
    revoked, kept = await revoke_made_by(tx, caller, user_id)
    await orgs.remove_member(tx, org_id, user_id, caller)
    account = await users.lock_for_deletion(tx, user_id)
    account.display_name, account.delete_time = "", now()
    return [each for each in revoked if each not in own], [each for each in kept if each not in own]


def read_scopes(permissions: Sequence[str], workspace_ids: frozenset[UUID]) -> KeyScopes:
    """Return the scopes. Raises InvalidArgument for permissions that no key, or no key of workspaces, can have."""
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
    """Create a key. Return it and its secret."""
    await lock_org(tx, org_id, "org_id")
    account = await find_account(tx, user_id)
    if scopes.workspace_ids:
        await _check_seen(tx, caller, scopes.workspace_ids)
    await check_may_hand_out(tx, caller, user_id, scopes)
    return await _add_key(tx, account, name, scopes, expire_time, caller, await _limits_of_creator(tx, caller))


async def rotate_key(
    tx: WriteSession,
    org_id: UUID,
    api_key_id: UUID,
    overlap: timedelta,
    expire_time: datetime | None,
    caller: Principal,
) -> tuple[ApiKey, KeyScopes, str]:
    """Create the successor of a key. Return it, its scopes and its secret."""
    await lock_org(tx, org_id, "org_id")
    old = await find_key(tx, api_key_id)
    if has_ended(old):
        raise FailedPrecondition(pb.ERROR_REASON_API_KEY_ENDED, "This key has ended: create another one.")
    account, scopes = await find_account(tx, old.user_id), await scopes_of(tx, old)
    await check_may_hand_out(tx, caller, old.user_id, scopes)
    if expire_time is None and old.expire_time:  # otherwise a rotation would silently make a key permanent
        expire_time = after(now(), old.expire_time - old.create_time)
    end = now() + overlap
    old.expire_time = min(old.expire_time or end, end)
    key, secret = await _add_key(tx, account, old.name, scopes, expire_time, caller, old.call_limits, old.line_id)
    return key, scopes, secret


async def revoke_key(
    tx: WriteSession, org_id: UUID, api_key_id: UUID, caller: Principal, *, keep_created: bool
) -> RevokedKey:
    await lock_org(tx, org_id, "org_id")
    key = await find_key(tx, api_key_id)
    if caller.key_id != key.id and not has_ended(key):
        await check_may_hand_out(tx, caller, key.user_id, await scopes_of(tx, key), taking=True)
    if key.revoke_time is None:
        key.revoke_time = now()
        _note_revoked(tx, [key.id])
    made = await store.list_made_with(tx, [key.id])
    invitations = await invitations_of_keys(tx, [key.id, *made])
    if not keep_created:
        _, kept = await _revoke(tx, caller, made)
        for refused in (*kept.values(), await orgs.take_back_invitations(tx, invitations, caller)):
            if refused:
                raise refused
    return RevokedKey(key, made, invitations)


async def revoke_made_by(
    tx: WriteSession, caller: Principal, user_id: UUID, *, of_person: bool = False
) -> tuple[Sequence[UUID], Sequence[UUID]]:
    """Revoke the keys that an account created, with all that was created with them, as far as the caller may.

    A person's keys are revoked only with `of_person`. Returns the revoked keys, and those that remain valid. The
    organization must be locked.
    """
    _, user = await orgs.find_member(tx, user_id, "user_id")
    roots = await store.list_keys_of_creator(tx, user_id)
    made = list(dict.fromkeys([*roots, *await store.list_made_with(tx, roots)]))
    if user.kind == "person" and not of_person:
        return [], [key.id for key in await store.list_working(tx, made)]
    revoked, kept = await _revoke(tx, caller, made)
    await orgs.take_back_invitations(tx, await invitations_of_keys(tx, made), caller)
    await tx.flush()
    return revoked, list(kept)


async def _revoke(
    tx: WriteSession, caller: Principal, key_ids: Sequence[UUID]
) -> tuple[list[UUID], dict[UUID, PermissionMissing]]:
    """Revoke the valid ones of these keys, as far as the caller may: it needs what creating them needs.

    Returns the revoked keys, and why others remain valid. A key can create thousands of keys, so this must neither take
    thousands of queries nor block the event loop.
    """
    revoked, kept = list[UUID](), dict[UUID, PermissionMissing]()
    for begin in range(0, len(key_ids), _BATCH):
        keys = await store.list_working(tx, key_ids[begin : begin + _BATCH])
        workspaces = await store.workspaces_of_keys(tx, keys)
        wanted = {key.id: (key.user_id, _scopes(key, workspaces)) for key in keys}
        holdings = await read_holdings(tx, caller, wanted.values())
        for key_id, (user_id, scopes) in wanted.items():
            try:
                holdings.check(user_id, scopes, taking=True)
                revoked.append(key_id)
            except PermissionMissing as error:
                kept[key_id] = error
    await store.revoke_keys(tx, revoked)
    _note_revoked(tx, revoked)
    return revoked, kept


def _note_revoked(tx: WriteSession, key_ids: Sequence[UUID]) -> None:
    for key_id in key_ids:
        append(tx, event.EVENT_TYPE_API_KEY_REVOKED, api_key_id=key_id)


def has_ended(key: ApiKey) -> bool:
    return key.revoke_time is not None or has_expired(key)


def has_expired(key: ApiKey) -> bool:
    return key.expire_time is not None and key.expire_time <= now()


async def scopes_of(tx: WriteSession, key: ApiKey) -> KeyScopes:
    return _scopes(key, await store.workspaces_of_keys(tx, [key]))


def _scopes(key: Any, workspaces: Mapping[UUID, Sequence[UUID]]) -> KeyScopes:
    """Return the scopes of a key or of a row of `list_working`."""
    workspace_ids = frozenset(workspaces.get(key.id, ())) if key.workspaces_limited else None
    return KeyScopes(frozenset(key.permissions), workspace_ids)


async def find_account(tx: WriteSession, user_id: UUID) -> Membership:
    member, user = await orgs.find_member(tx, user_id, "user_id")
    if user.kind != "service":
        raise NotFound("user_id")
    return member


async def find_key(tx: WriteSession, api_key_id: UUID) -> ApiKey:
    key = await store.find_key(tx, api_key_id)
    if key is None:
        raise NotFound("api_key_id")
    return key


async def _check_seen(tx: WriteSession, caller: Principal, workspace_ids: frozenset[UUID]) -> None:
    """Raise NotFound if a workspace does not exist or the caller may not see it."""
    present = await granting.principal_now(tx, caller)
    scopes = await find_scopes(tx, workspace_ids, caller.user_id)
    if {scope.workspace_id for scope in scopes if sees(present, scope)} != workspace_ids:
        raise NotFound("workspace_ids")


async def check_may_hand_out(
    tx: WriteSession, caller: Principal, user_id: UUID, scopes: KeyScopes, *, taking: bool = False
) -> None:
    holdings = await read_holdings(tx, caller, [(user_id, scopes)])
    holdings.check(user_id, scopes, taking=taking)


async def _limits_of_creator(tx: WriteSession, caller: Principal) -> dict[str, Any]:
    """Return the limits of a key that the caller creates: those of the key that it is created with."""
    key = await store.find_key(tx, caller.key_id) if caller.key_id else None
    return dict(key.call_limits) if key else {}


async def _add_key(
    tx: WriteSession,
    account: Membership,
    name: str,
    scopes: KeyScopes,
    expire_time: datetime | None,
    creator: Principal,
    call_limits: dict[str, Any],
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
        call_limits=call_limits,
    )
    tx.add(key)
    await tx.flush()  # before the workspaces that refer to it
    for workspace_id in scopes.workspace_ids or ():
        tx.add(ApiKeyWorkspace(org_id=account.org_id, api_key_id=key.id, workspace_id=workspace_id))
    append(tx, event.EVENT_TYPE_API_KEY_CREATED, api_key_id=key.id, user_id=key.user_id)
    return key, secret


def _why_not(permission: str) -> str:
    if permission in ROLES["owner"]:
        return "is a permission in the organization, which a key that is limited to workspaces cannot have"
    return "is not a permission"
