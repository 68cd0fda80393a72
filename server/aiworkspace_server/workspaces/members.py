"""Rules of workspace membership: nobody can give or take away a permission that they lack there."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple
from uuid import UUID

from ..auth.authority import WORKSPACE_ROLES, Principal, held
from ..kit.context import current
from ..kit.errors import NotFound
from ..kit.postgres import ReadSession, WriteSession
from ..kit.timestamps import now
from ..orgs import granting
from ..orgs import service as orgs
from ..orgs.store import find_team
from . import store
from .models import Workspace, WorkspaceMember


class Who(NamedTuple):
    """An account or a team; the other one is None."""

    user_id: UUID | None
    team_id: UUID | None

    @property
    def member_id(self) -> UUID:
        found = self.user_id or self.team_id
        assert found is not None
        return found


async def set_member(
    tx: WriteSession, org_id: UUID, workspace_id: UUID, who: Who, role: str, caller: Principal
) -> tuple[WorkspaceMember, str]:
    """Create or change a membership. Return it with the name of its member."""
    await lock(tx, org_id, workspace_id)
    name = await _name_of(tx, who)
    member = await store.find_member(tx, workspace_id, who.member_id)
    replaced = WORKSPACE_ROLES[member.role] if member else frozenset[str]()
    await check_may_give(tx, caller, workspace_id, WORKSPACE_ROLES[role] | replaced)
    if member is None:
        whose = {"org_id": org_id, "workspace_id": workspace_id, "user_id": who.user_id, "team_id": who.team_id}
        member = WorkspaceMember(**whose, role=role, create_time=now())
        tx.add(member)
    member.role = role
    return member, name


async def remove_member(tx: WriteSession, org_id: UUID, workspace_id: UUID, who: Who, caller: Principal) -> None:
    await lock(tx, org_id, workspace_id)
    member = await store.find_member(tx, workspace_id, who.member_id)
    if member is None or member.user_id != who.user_id:
        raise NotFound("user_id" if who.user_id else "team_id")
    if who.user_id != caller.user_id or caller.key:
        await check_may_give(tx, caller, workspace_id, WORKSPACE_ROLES[member.role])
    await tx.delete(member)


async def lock(tx: WriteSession, org_id: UUID, workspace_id: UUID) -> Workspace:
    """Lock the workspace and the rights in its organization until the transaction ends, and return it."""
    await orgs.lock_org(tx, org_id, "workspace_id")
    workspace = await store.lock_workspace(tx, workspace_id)
    if workspace is None:
        raise NotFound("workspace_id")
    return workspace


async def check_may_give(tx: WriteSession, caller: Principal, workspace_id: UUID, permissions: frozenset[str]) -> None:
    """Raise PermissionMissing if the caller lacks one of the permissions there now. The organization must be locked."""
    needed = permissions | {current.get().method.access.permission}
    await check_holds(tx, caller, {workspace_id: needed})


async def check_may_take_all(tx: WriteSession, org_id: UUID, caller: Principal, user_id: UUID) -> None:
    """Raise PermissionMissing if the caller lacks a right in a workspace that the user would lose or regain."""
    await orgs.lock_org(tx, org_id, "org_id")
    if user_id == caller.user_id and caller.key is None:
        return
    needed: dict[UUID, frozenset[str]] = {}
    for member in await store.list_roles_of_account(tx, user_id):
        needed[member.workspace_id] = needed.get(member.workspace_id, frozenset()) | WORKSPACE_ROLES[member.role]
    await check_holds(tx, caller, needed)


async def check_holds(tx: WriteSession, caller: Principal, needed: Mapping[UUID, frozenset[str]]) -> None:
    """Raise PermissionMissing if the caller lacks a permission that is needed in one of the workspaces."""
    for workspace_id, permissions in (await held_now(tx, caller, needed)).items():
        if missing := needed[workspace_id] - permissions:
            raise granting.lacking(missing)


async def held_now(tx: ReadSession, caller: Principal, workspaces: Iterable[UUID]) -> dict[UUID, frozenset[str]]:
    """Return the caller's current permissions in each of the workspaces, without deleted ones."""
    principal = await granting.principal_now(tx, caller)
    scopes = await store.find_scopes(tx, list(workspaces), caller.user_id)
    return {scope.workspace_id: held(principal, scope) for scope in scopes if scope.workspace_id}


async def _name_of(tx: WriteSession, who: Who) -> str:
    """Return the name of the member. Raises NotFound if it is not in the organization."""
    if who.user_id:
        _, user = await orgs.find_member(tx, who.user_id, "user_id")
        return user.display_name
    assert who.team_id is not None
    team = await find_team(tx, who.team_id)
    if team is None:
        raise NotFound("team_id")
    return team.name
