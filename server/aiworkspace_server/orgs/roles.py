"""Roles and the permissions that the contract names."""

from collections.abc import Iterable

from ..kit.contract import ContractError, Method

VIEWER = frozenset({"org.read", "member.read", "workspace.read", "chat.read"})
MEMBER = VIEWER | {"workspace.create", "workspace.update", "chat.send"}
ADMIN = MEMBER | {"org.update", "member.manage", "invitation.manage", "workspace.delete", "usage.read"}
OWNER = ADMIN | {"org.delete"}

PERMISSIONS = {"viewer": VIEWER, "member": MEMBER, "admin": ADMIN, "owner": OWNER}
RANK = {role: rank for rank, role in enumerate(PERMISSIONS, start=1)}  # also the numbers of the contract's Role
ROLES = tuple(PERMISSIONS)
# What the holder of a role may give to others and take from them: nothing above it.
GIVES = {
    role: frozenset(ROLES[:rank]) if "member.manage" in PERMISSIONS[role] else frozenset()
    for role, rank in RANK.items()
}


def check_permissions(methods: Iterable[Method]) -> None:
    """Raises ContractError for a permission that no role includes: nobody could ever call the method."""
    for method in methods:
        if method.access.permission and method.access.permission not in OWNER:
            raise ContractError(f"{method.path}: no role includes the permission {method.access.permission!r}.")
