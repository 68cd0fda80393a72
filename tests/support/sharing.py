"""Groups of people, and workspaces that are shared: the calls, short enough for tables."""

from typing import Any

from aiworkspace.v1 import team_pb2, workspace_pb2
from tests.support.people import Person

READER, EDITOR, MANAGER = (
    workspace_pb2.WORKSPACE_ROLE_VIEWER,
    workspace_pb2.WORKSPACE_ROLE_EDITOR,
    workspace_pb2.WORKSPACE_ROLE_MANAGER,
)
OPEN, CLOSED = workspace_pb2.WORKSPACE_VISIBILITY_ORG, workspace_pb2.WORKSPACE_VISIBILITY_MEMBERS


async def make_group(by: Person, org_id: str, *people: Person, name: str = "Physicists") -> str:
    """A team with these people."""
    made = await by.teams.CreateTeam(team_pb2.CreateTeamRequest(org_id=org_id, name=name))
    for person in people:
        await add(by, org_id, made.team.team_id, person.user_id)
    return str(made.team.team_id)


def add(by: Person, org_id: str, team_id: str, user_id: str) -> Any:
    request = team_pb2.AddTeamMemberRequest(org_id=org_id, team_id=team_id, user_id=user_id)
    return by.teams.AddTeamMember(request)


def take_out(by: Person, org_id: str, team_id: str, user_id: str) -> Any:
    request = team_pb2.RemoveTeamMemberRequest(org_id=org_id, team_id=team_id, user_id=user_id)
    return by.teams.RemoveTeamMember(request)


def delete_group(by: Person, org_id: str, team_id: str) -> Any:
    return by.teams.DeleteTeam(team_pb2.DeleteTeamRequest(org_id=org_id, team_id=team_id))


async def in_group(by: Person, org_id: str, team_id: str) -> list[team_pb2.TeamMember]:
    request = team_pb2.ListTeamMembersRequest(org_id=org_id, team_id=team_id)
    return list((await by.teams.ListTeamMembers(request)).members)


def share(by: Person, workspace_id: str, role: int, **who: str) -> Any:
    """`who` is a user_id or a team_id."""
    value = workspace_pb2.WorkspaceRole.ValueType(role)
    request = workspace_pb2.SetWorkspaceMemberRequest(workspace_id=workspace_id, role=value, **who)
    return by.workspaces.SetWorkspaceMember(request)


def unshare(by: Person, workspace_id: str, **who: str) -> Any:
    return by.workspaces.RemoveWorkspaceMember(
        workspace_pb2.RemoveWorkspaceMemberRequest(workspace_id=workspace_id, **who)
    )


def set_visibility(by: Person, workspace_id: str, visibility: int) -> Any:
    value = workspace_pb2.WorkspaceVisibility.ValueType(visibility)
    request = workspace_pb2.SetWorkspaceVisibilityRequest(workspace_id=workspace_id, visibility=value)
    return by.workspaces.SetWorkspaceVisibility(request)


async def in_workspace(by: Person, workspace_id: str) -> dict[str, int]:
    """The role of everybody who is a member, by the id of person or team."""
    request = workspace_pb2.ListWorkspaceMembersRequest(workspace_id=workspace_id, page_size=1000)
    members = (await by.workspaces.ListWorkspaceMembers(request)).members
    return {member.user_id or member.team_id: member.role for member in members}
