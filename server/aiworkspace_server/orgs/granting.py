"""Rules of giving roles and taking them away: nobody changes what is beyond their own permissions."""

from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

from ..auth import authority
from ..auth.authority import ROLES, Principal
from ..auth.models import User
from ..kit.context import current
from ..kit.errors import InvalidArgument, NotFound, PermissionMissing
from ..kit.postgres import ReadSession, WriteSession
from . import store


class RoleChoice(NamedTuple):
    """A built-in role, or "custom" with the id of a custom role."""

    name: str
    custom_role_id: UUID | None = None


def role_of(member: Any) -> RoleChoice:
    """Return the role of a membership, given as any kind of row, or the role that an invitation offers."""
    return RoleChoice(member.role, member.custom_role_id)


async def permissions_of(tx: ReadSession, role: RoleChoice, field: str = "custom_role_id") -> frozenset[str]:
    """Return the permissions of a role. Raises NotFound if the organization does not have the custom role."""
    if role.custom_role_id is None:
        return ROLES[role.name]
    custom = await store.find_custom_role(tx, role.custom_role_id)
    if custom is None:
        raise NotFound(field)
    return frozenset(custom.permissions)


def check_may_have(user: User, role: RoleChoice, field: str) -> None:
    if user.kind == "service" and role.name == "owner":
        raise InvalidArgument({field: "only a person can be an owner"})


async def principal_now(tx: ReadSession, caller: Principal) -> Principal:
    """Return the caller with their current membership in the transaction's organization. Raises NotFound if none."""
    found = await store.find_member(tx, caller.user_id)
    if found is None or found[0].suspend_time:
        raise NotFound("org_id")
    org_id, role = found[0].org_id, role_of(found[0])
    membership = authority.Membership(org_id, *role, await permissions_of(tx, role))
    return replace(caller, memberships={org_id: membership})


async def check_may_grant(tx: WriteSession, caller: Principal, *roles: frozenset[str]) -> None:
    """Raise PermissionMissing if the caller lacks a permission of the roles now. The organization must be locked."""
    check_within(granted(await principal_now(tx, caller)), *roles)


def granted(present: Principal) -> frozenset[str]:
    """Return the permissions in the organization of a principal from `principal_now`."""
    [membership] = present.memberships.values()
    return membership.permissions & present.key.permissions if present.key else membership.permissions


def check_within(permissions: frozenset[str], *roles: frozenset[str]) -> None:
    """Raise PermissionMissing unless the permissions include the roles and the permission of the current call."""
    needed = frozenset({current.get().method.access.permission}).union(*roles)
    if missing := needed - permissions:
        raise lacking(missing)


def lacking(permissions: frozenset[str]) -> PermissionMissing:
    name = min(permissions)
    return PermissionMissing(name, f"You lack {name}, so you can neither give it nor take it away.")
