"""aiws teams, and how workspaces are shared."""

import json

import grpc
import pytest

from aiworkspace.v1 import team_pb2
from aiworkspace.v1 import workspace_pb2 as pb
from tests.client.conftest import Aiws
from tests.client.scripted import ScriptedServer, answer, answers, failure

TEAM = team_pb2.Team(org_id="org-1", team_id="team-1", name="Physicists", member_count=3)
MARIE = team_pb2.TeamMember(team_id="team-1", user_id="user-2", display_name="Marie")

pytestmark = pytest.mark.usefixtures("signed_in")


async def test_a_team_from_its_making_to_its_end(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("TeamService.CreateTeam", answer(team_pb2.CreateTeamResponse(team=TEAM)))
    server.script("TeamService.AddTeamMember", answer(team_pb2.AddTeamMemberResponse(member=MARIE)))
    server.script("TeamService.RemoveTeamMember", answer(team_pb2.RemoveTeamMemberResponse()))
    server.script("TeamService.DeleteTeam", answer(team_pb2.DeleteTeamResponse()))
    assert (await aiws("teams", "create", "Physicists")).stdout == "team-1\n"
    assert (server.calls[-1].request.org_id, server.calls[-1].request.name) == ("org-1", "Physicists")
    ran = await aiws("teams", "add", "team-1", "user-2")
    assert (ran.returncode, "Marie" in ran.stderr) == (0, True)
    whom = {"org_id": "org-1", "team_id": "team-1", "user_id": "user-2"}
    assert server.calls[-1].request == team_pb2.AddTeamMemberRequest(**whom)
    assert (await aiws("teams", "remove", "team-1", "user-2")).returncode == 0
    assert server.calls[-1].request == team_pb2.RemoveTeamMemberRequest(**whom)
    assert (await aiws("teams", "delete", "team-1", stdin="n\n")).returncode == 1
    assert not server.called("TeamService.DeleteTeam")
    assert (await aiws("teams", "delete", "team-1", "--yes")).returncode == 0
    assert server.calls[-1].request == team_pb2.DeleteTeamRequest(org_id="org-1", team_id="team-1")


async def test_teams_and_who_is_in_them_are_listed(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("TeamService.ListTeams", answer(team_pb2.ListTeamsResponse(teams=[TEAM])))
    server.script("TeamService.ListTeamMembers", answer(team_pb2.ListTeamMembersResponse(members=[MARIE])))
    assert (await aiws("teams", "list")).stdout.split() == ["TEAM", "NAME", "MEMBERS", "team-1", "Physicists", "3"]
    assert json.loads((await aiws("teams", "list", "--json")).stdout)[0]["member_count"] == 3
    table = (await aiws("teams", "members", "team-1", "--org", "org-2")).stdout.splitlines()
    assert table[1].split() == ["user-2", "Marie"]
    assert server.calls[-1].request == team_pb2.ListTeamMembersRequest(org_id="org-2", team_id="team-1")


async def test_a_workspace_is_shared_and_no_more(server: ScriptedServer, aiws: Aiws) -> None:
    member = pb.WorkspaceMember(team_id="team-1", display_name="Physicists", role=pb.WORKSPACE_ROLE_MANAGER)
    server.script("WorkspaceService.SetWorkspaceMember", answer(pb.SetWorkspaceMemberResponse(member=member)))
    server.script("WorkspaceService.RemoveWorkspaceMember", answer(pb.RemoveWorkspaceMemberResponse()))
    ran = await aiws("workspaces", "share", "--team", "team-1", "--role", "manager")
    assert ran.stderr == "Physicists is now manager of the workspace.\n"
    expected = pb.SetWorkspaceMemberRequest(
        workspace_id="workspace-1", team_id="team-1", role=pb.WORKSPACE_ROLE_MANAGER
    )
    assert server.calls[-1].request == expected
    await aiws("workspaces", "share", "--user", "user-2", "-w", "workspace-2")
    expected = pb.SetWorkspaceMemberRequest(workspace_id="workspace-2", user_id="user-2", role=pb.WORKSPACE_ROLE_EDITOR)
    assert server.calls[-1].request == expected
    assert (await aiws("workspaces", "unshare", "--user", "user-2")).returncode == 0
    assert server.calls[-1].request == pb.RemoveWorkspaceMemberRequest(workspace_id="workspace-1", user_id="user-2")


@pytest.mark.parametrize("who", [(), ("--user", "user-1", "--team", "team-1")], ids=["nobody", "both"])
@pytest.mark.parametrize("command", ["share", "unshare"])
async def test_either_a_person_or_a_team_is_meant(
    command: str, who: tuple[str, ...], server: ScriptedServer, aiws: Aiws
) -> None:
    before = len(server.calls)
    ran = await aiws("workspaces", command, *who)
    assert (ran.returncode, "--user ID or --team ID" in ran.stderr) == (2, True)
    assert len(server.calls) == before


async def test_the_members_of_a_workspace_are_listed(server: ScriptedServer, aiws: Aiws) -> None:
    found = [
        pb.WorkspaceMember(user_id="user-2", display_name="Marie", role=pb.WORKSPACE_ROLE_VIEWER),
        pb.WorkspaceMember(team_id="team-1", display_name="Physicists", role=pb.WORKSPACE_ROLE_EDITOR),
    ]
    server.script("WorkspaceService.ListWorkspaceMembers", answer(pb.ListWorkspaceMembersResponse(members=found)))
    table = (await aiws("workspaces", "members")).stdout.splitlines()
    assert [line.split() for line in table[1:]] == [
        ["user-2", "user", "Marie", "viewer"],
        ["team-1", "team", "Physicists", "editor"],
    ]
    content = json.loads((await aiws("workspaces", "members", "--json")).stdout)
    assert content[1]["role"] == "WORKSPACE_ROLE_EDITOR"


async def test_a_workspace_is_closed_and_opened(server: ScriptedServer, aiws: Aiws) -> None:
    changed = pb.SetWorkspaceVisibilityResponse(workspace=pb.Workspace(name="Notes"))
    server.script("WorkspaceService.SetWorkspaceVisibility", answer(changed))
    assert (await aiws("workspaces", "visibility", "members")).stderr == "Notes is open to its members only.\n"
    assert server.calls[-1].request.visibility == pb.WORKSPACE_VISIBILITY_MEMBERS
    assert (await aiws("workspaces", "visibility", "org")).stderr == "Notes is open to its organization.\n"
    assert server.calls[-1].request.visibility == pb.WORKSPACE_VISIBILITY_ORG
    assert (await aiws("workspaces", "visibility", "everybody")).returncode == 2


async def test_what_one_lacks_is_explained(server: ScriptedServer, aiws: Aiws) -> None:
    refused = failure(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING", "You lack chat.send.")
    server.script("WorkspaceService.SetWorkspaceMember", answers(refused))
    ran = await aiws("workspaces", "share", "--user", "user-2")
    assert (ran.returncode, "You lack chat.send." in ran.stderr) == (1, True)
