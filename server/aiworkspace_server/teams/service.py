"""Rules of teams: adding or removing a member needs every right that the team has."""

from typing import Any
from uuid import UUID

from aiworkspace.v1 import event_pb2 as event

from ..auth.authority import WORKSPACE_ROLES, Principal
from ..events.outbox import append
from ..kit.errors import InvalidArgument, NotFound, check_etag
from ..kit.ids import new_id
from ..kit.postgres import WriteSession
from ..kit.timestamps import now
from ..orgs import granting
from ..orgs import service as orgs
from ..orgs.models import Team, TeamMember
from ..workspaces import members as workspaces
from ..workspaces.store import list_roles_of_team
from . import store


def create_team(tx: WriteSession, org_id: UUID, name: str) -> Team:
    time = now()
    team = Team(org_id=org_id, id=new_id(), name=name, version=1, create_time=time, update_time=time)
    tx.add(team)
    append(tx, event.EVENT_TYPE_TEAM_CREATED, team_id=team.id)
    return team


async def update_team(tx: WriteSession, team_id: UUID, etag: str, values: dict[str, Any]) -> tuple[Team, int]:
    """Change a team. Return it and its number of members."""
    if "name" in values and not values["name"]:
        raise InvalidArgument({"team.name": "must not be empty"})
    team = await _lock_team(tx, team_id, "team.team_id")
    check_etag(etag, team.version, "team.etag")
    team.name = values.get("name", team.name)
    team.version += 1
    team.update_time = now()
    append(tx, event.EVENT_TYPE_TEAM_UPDATED, team_id=team_id)
    return team, await store.count_members(tx, team_id)


async def delete_team(tx: WriteSession, org_id: UUID, team_id: UUID, caller: Principal) -> None:
    await orgs.lock_org(tx, org_id, "org_id")
    team = await _lock_team(tx, team_id, "team_id")
    await _check_may_change(tx, team_id, caller)
    await tx.delete(team)
    append(tx, event.EVENT_TYPE_TEAM_DELETED, team_id=team_id)


async def add_member(
    tx: WriteSession, org_id: UUID, team_id: UUID, user_id: UUID, caller: Principal
) -> tuple[TeamMember, str]:
    """Add a member. Return the membership and the member's name."""
    await orgs.lock_org(tx, org_id, "org_id")
    await _lock_team(tx, team_id, "team_id")
    _, user = await orgs.find_member(tx, user_id, "user_id")
    member = await store.find_member(tx, team_id, user_id)
    if member is None:
        await _check_may_change(tx, team_id, caller)
        member = TeamMember(org_id=org_id, team_id=team_id, user_id=user_id, create_time=now())
        tx.add(member)
        append(tx, event.EVENT_TYPE_TEAM_UPDATED, team_id=team_id, user_id=user_id)
    return member, user.display_name


async def remove_member(tx: WriteSession, org_id: UUID, team_id: UUID, user_id: UUID, caller: Principal) -> None:
    await orgs.lock_org(tx, org_id, "org_id")
    await _lock_team(tx, team_id, "team_id")
    if user_id != caller.user_id or caller.key:
        await _check_may_change(tx, team_id, caller)
    if not await store.remove_member(tx, team_id, user_id):
        raise NotFound("user_id")
    append(tx, event.EVENT_TYPE_TEAM_UPDATED, team_id=team_id, user_id=user_id)


async def _check_may_change(tx: WriteSession, team_id: UUID, caller: Principal) -> None:
    """Raise PermissionMissing unless the caller has every right that the team has in workspaces."""
    await granting.check_may_grant(tx, caller)
    roles = {each.workspace_id: WORKSPACE_ROLES[each.role] for each in await list_roles_of_team(tx, team_id)}
    await workspaces.check_holds(tx, caller, roles)


async def _lock_team(tx: WriteSession, team_id: UUID, field: str) -> Team:
    team = await store.lock_team(tx, team_id)
    if team is None:
        raise NotFound(field)
    return team
