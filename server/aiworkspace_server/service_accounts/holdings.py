"""Which API keys a caller may create or revoke: only those whose permissions the caller has."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from ..auth.authority import ADMINISTER, WORKSPACE_PERMISSIONS, Principal
from ..kit.errors import PermissionMissing
from ..kit.postgres import WriteSession
from ..orgs import granting
from ..workspaces.members import held_now
from . import store

_MANAGE = frozenset({"service_account.manage"})


@dataclass(frozen=True, slots=True)
class KeyScopes:
    """The permissions and workspaces of a key."""

    permissions: frozenset[str]
    workspace_ids: frozenset[UUID] | None  # None: all that its account may see


@dataclass(frozen=True, slots=True)
class Holdings:
    """The current permissions of a caller and the workspaces that accounts reach, read once for any number of keys."""

    permissions: frozenset[str]
    reaches_all: bool  # whether the caller's role counts in all workspaces
    in_workspaces: Mapping[UUID, frozenset[str]]  # without deleted ones
    reach_all: Collection[UUID]  # accounts whose role counts in all workspaces
    workspaces_of: Mapping[UUID, Collection[UUID]]  # of which accounts are members

    def check(self, user_id: UUID, scopes: KeyScopes, *, taking: bool) -> None:
        """Raise PermissionMissing if a key of the account has a permission that the caller lacks.

        This counts in the organization, and in each workspace where the account has another role.
        """
        granting.check_within(self.permissions, _MANAGE if taking else frozenset())
        in_workspaces, where = scopes.permissions & WORKSPACE_PERMISSIONS, scopes.workspace_ids
        if where is None:
            granting.check_within(self.permissions, scopes.permissions)
            if in_workspaces and user_id in self.reach_all and not self.reaches_all:
                # A key of an account with such a role reaches them without the permission.
                message = (
                    "The account can use workspaces that you cannot: limit the key to workspaces that you can use."
                )
                raise PermissionMissing(ADMINISTER, message)
            where = frozenset(self.workspaces_of.get(user_id, ()))
        else:
            granting.check_within(self.permissions, scopes.permissions - WORKSPACE_PERMISSIONS)
        for workspace_id in where & self.in_workspaces.keys():
            if missing := in_workspaces - self.in_workspaces[workspace_id]:
                raise granting.lacking(missing)


async def read_holdings(tx: WriteSession, caller: Principal, keys: Collection[tuple[UUID, KeyScopes]]) -> Holdings:
    """Read the holdings for keys of service accounts with these scopes. The organization must be locked."""
    user_ids = {user_id for user_id, _ in keys}
    accounts = await store.permissions_of_accounts(tx, user_ids)
    workspaces_of = await store.workspaces_of_accounts(tx, user_ids)
    workspace_ids = {each for found in workspaces_of.values() for each in found}
    workspace_ids |= {each for _, scopes in keys for each in scopes.workspace_ids or ()}
    present = await granting.principal_now(tx, caller)
    [membership] = present.memberships.values()
    return Holdings(
        granting.granted(present),
        ADMINISTER in membership.permissions,
        await held_now(tx, caller, workspace_ids),
        {user_id for user_id, permissions in accounts.items() if ADMINISTER in permissions},
        workspaces_of,
    )
