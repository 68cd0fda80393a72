"""Permissions and roles: pure functions over the grants that the contract declares."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from aiworkspace.v1 import common_pb2 as pb
from aiworkspace.v1 import options_pb2 as options
from aiworkspace.v1 import org_pb2, workspace_pb2

from ..audit.calls import Actor
from ..kit.call_limits import OwnLimits
from ..kit.context import Call, current
from ..kit.contract import ContractError, Method
from ..kit.errors import FailedPrecondition


def _grants(enum: Any, prefix: str) -> dict[str, frozenset[str]]:
    """Return the permissions of each role of an enum, by its name in lower case without the prefix."""
    values = [value for value in enum.DESCRIPTOR.values if value.number]
    grants = {value.name: value.GetOptions().Extensions[options.grants] for value in values}
    return {name.removeprefix(prefix).lower(): frozenset(names) for name, names in grants.items()}


PERMISSIONS = frozenset(
    value.GetOptions().Extensions[options.permission_name]
    for value in options.Permission.DESCRIPTOR.values
    if value.number
)
ROLES = _grants(org_pb2.Role, "ROLE_")  # "custom" has none here: organizations define its permissions
WORKSPACE_ROLES = _grants(workspace_pb2.WorkspaceRole, "WORKSPACE_ROLE_")
WORKSPACE_PERMISSIONS = WORKSPACE_ROLES["manager"]  # all that are held in a workspace
ADMINISTER = "workspace.administer"


@dataclass(frozen=True, slots=True)
class Membership:
    """A membership in an organization, with its permissions."""

    org_id: UUID
    role: str
    custom_role_id: UUID | None
    permissions: frozenset[str]
    suspended: str | None = None  # why the organization is suspended; None if it is active


@dataclass(frozen=True, slots=True)
class KeyScope:
    """What an API key is limited to."""

    api_key_id: UUID
    permissions: frozenset[str]
    workspace_ids: frozenset[UUID] | None  # None: all workspaces

    def reaches(self, scope: "Scope") -> bool:
        return self.workspace_ids is None or scope.workspace_id is None or scope.workspace_id in self.workspace_ids


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of a session or API key, with memberships that may be a second old."""

    user_id: UUID
    session_id: UUID | None
    key: KeyScope | None
    memberships: Mapping[UUID, Membership]
    verified: bool = True  # whether the address is verified; always true for service accounts
    own_limits: OwnLimits | None = None  # of calls, where they differ from the contract's
    # What the roles give in each scope that was asked for, as long as these memberships are known.
    granted: dict["Scope", frozenset[str]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def key_id(self) -> UUID | None:
        return self.key.api_key_id if self.key else None


def principal_of(call: Call) -> Principal:
    """Return who makes the call. Only for methods that are not public."""
    return call.found(Principal, "authentication")


def current_principal() -> Principal:
    """Return who makes the current call. Only for methods that are not public."""
    return principal_of(current.get())


def actor_of(call: Call, org_id: UUID | None) -> Actor:
    """Return the caller, if any, for an entry in the audit log of the organization or of an account."""
    principal = call.get(Principal)
    if principal is None:
        return Actor()
    if call.operator:
        return Actor(role="operator")
    membership = principal.memberships.get(org_id) if org_id else None
    role = str(membership.custom_role_id or membership.role) if membership else ""
    return Actor(principal.key_id, role)


class OrgSuspended(FailedPrecondition):
    """An operator of the server has suspended the organization."""

    def __init__(self) -> None:
        message = "An operator of the server has suspended this organization: GetOrg returns the reason."
        super().__init__(pb.ERROR_REASON_ORG_SUSPENDED, message)


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a permission has to be held: in an organization, or in one of its workspaces."""

    org_id: UUID
    workspace_id: UUID | None = None
    open_to_org: bool = False  # whether roles in the organization count in the workspace
    roles: tuple[tuple[str, UUID | None], ...] = ()  # the caller's roles in the workspace; of a team, with its id


@dataclass(frozen=True, slots=True)
class Source:
    """One role that gives the caller permissions in a scope."""

    role: str
    permissions: frozenset[str]
    in_workspace: bool = False
    team_id: UUID | None = None


def sources(principal: Principal, scope: Scope) -> Iterator[Source]:
    """Yield the roles that count in the scope. Outside of the caller's organizations there are none."""
    membership = principal.memberships.get(scope.org_id)
    if membership is None:
        return
    if scope.workspace_id is None:
        yield Source(membership.role, membership.permissions)
        return
    if ADMINISTER in membership.permissions:
        yield Source(membership.role, WORKSPACE_PERMISSIONS)
    elif scope.open_to_org:
        yield Source(membership.role, membership.permissions & WORKSPACE_PERMISSIONS)
    for role, team_id in scope.roles:
        yield Source(role, WORKSPACE_ROLES[role], in_workspace=True, team_id=team_id)


def held(principal: Principal, scope: Scope) -> frozenset[str]:
    """Return the permissions that the caller has in the scope."""
    permissions, key = _granted(principal, scope), principal.key
    if key is None:
        return permissions
    return permissions & key.permissions if key.reaches(scope) else frozenset()


def sees(principal: Principal, scope: Scope) -> bool:
    """Return whether the caller may know that resources in the scope exist."""
    if scope.org_id not in principal.memberships or not (principal.key is None or principal.key.reaches(scope)):
        return False
    return scope.workspace_id is None or "workspace.read" in _granted(principal, scope)


def _granted(principal: Principal, scope: Scope) -> frozenset[str]:
    """Return the permissions of all roles that count in the scope, whatever the key is limited to."""
    granted = principal.granted.get(scope)
    if granted is None:
        granted = frozenset[str]().union(*(source.permissions for source in sources(principal, scope)))
        principal.granted[scope] = granted
    return granted


def read_memberships(rows: Iterable[Mapping[str, Any]]) -> dict[UUID, Membership]:
    """Return the memberships in a row of a lookup function, by organization."""
    found = {}
    for row in rows:
        org_id, role = UUID(row["org_id"]), row["role"]
        permissions = ROLES[role] if role != "custom" else frozenset(row["permissions"])
        custom_role_id = UUID(row["custom_role_id"]) if row["custom_role_id"] else None
        found[org_id] = Membership(org_id, role, custom_role_id, permissions, row["suspended"])
    return found


def check_permissions(methods: Iterable[Method]) -> None:
    """Raise ContractError for a permission that no role includes, and for a role with an undeclared permission."""
    for roles in (ROLES, WORKSPACE_ROLES):
        for role, permissions in roles.items():
            if unknown := permissions - PERMISSIONS:
                raise ContractError(f"The role {role} includes {min(unknown)!r}, which is no value of Permission.")
    for method in methods:
        if method.access.permission and method.access.permission not in ROLES["owner"] & PERMISSIONS:
            raise ContractError(f"{method.path}: no role includes the permission {method.access.permission!r}.")
