"""What a caller may put into API keys, or take away with them: nobody gives or takes what they lack."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from ..auth.authority import ADMINISTER, WORKSPACE_PERMISSIONS, Principal
from ..kit.errors import PermissionMissing
from ..kit.postgres import WriteSession
from ..orgs import service as orgs
from ..workspaces.members import held_now
from . import store

_MANAGE = frozenset({"service_account.manage"})


@dataclass(frozen=True, slots=True)
class KeyScopes:
    """What a key may be used for."""

    permissions: frozenset[str]
    workspace_ids: frozenset[UUID] | None  # None: all that its account may see


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a caller holds and accounts reach as it is now, read once for any number of keys."""

    permissions: frozenset[str]
    reaches_all: bool  # whether the caller's role counts in all workspaces
    in_workspaces: Mapping[UUID, frozenset[str]]  # without deleted ones
    reach_all: Collection[UUID]  # accounts whose role counts in all workspaces
    workspaces_of: Mapping[UUID, Collection[UUID]]  # of which accounts are members

    def check(self, user_id: UUID, scopes: KeyScopes, *, taking: bool) -> None:
        """Raise PermissionMissing for a key of an account with what the caller lacks.

        In the organization, or in a workspace where the account has another role.
        """
        orgs.check_within(self.permissions, _MANAGE if taking else frozenset())
        in_workspaces, where = scopes.permissions & WORKSPACE_PERMISSIONS, scopes.workspace_ids
        if where is None:
            orgs.check_within(self.permissions, scopes.permissions)
            if in_workspaces and user_id in self.reach_all and not self.reaches_all:
                # A key of such a role reaches them without the permission.
                message = "The account reaches workspaces that you do not: limit the key to others."
                raise PermissionMissing(ADMINISTER, message)
            where = frozenset(self.workspaces_of.get(user_id, ()))
        else:
            orgs.check_within(self.permissions, scopes.permissions - WORKSPACE_PERMISSIONS)
        for workspace_id in where & self.in_workspaces.keys():
            if missing := in_workspaces - self.in_workspaces[workspace_id]:
                raise orgs.lacking(missing)


async def read_holdings(tx: WriteSession, caller: Principal, keys: Collection[tuple[UUID, KeyScopes]]) -> Holdings:
    """For keys of service accounts with these scopes. Call with the organization locked."""
    user_ids = {user_id for user_id, _ in keys}
    accounts = await store.permissions_of_accounts(tx, user_ids)
    workspaces_of = await store.workspaces_of_accounts(tx, user_ids)
    workspace_ids = {each for found in workspaces_of.values() for each in found}
    workspace_ids |= {each for _, scopes in keys for each in scopes.workspace_ids or ()}
    present = await orgs.principal_now(tx, caller)
    [membership] = present.memberships.values()
    return Holdings(
        orgs.granted(present),
        ADMINISTER in membership.permissions,
        await held_now(tx, caller, workspace_ids),
        {user_id for user_id, permissions in accounts.items() if ADMINISTER in permissions},
        workspaces_of,
    )
