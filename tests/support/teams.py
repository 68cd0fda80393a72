"""Teams, which are groups of an organization's people: the calls, short enough for tables."""

from typing import Any

from aiworkspace.v1 import team_pb2 as pb
from tests.support.people import Person


async def make_group(by: Person, org_id: str, *people: Person, name: str = "Physicists") -> str:
    """A team with these people."""
    made = await by.teams.CreateTeam(pb.CreateTeamRequest(org_id=org_id, name=name))
    for person in people:
        await add(by, org_id, made.team.team_id, person.user_id)
    return str(made.team.team_id)


def add(by: Person, org_id: str, team_id: str, user_id: str) -> Any:
    request = pb.AddTeamMemberRequest(org_id=org_id, team_id=team_id, user_id=user_id)
    return by.teams.AddTeamMember(request)


def take_out(by: Person, org_id: str, team_id: str, user_id: str) -> Any:
    request = pb.RemoveTeamMemberRequest(org_id=org_id, team_id=team_id, user_id=user_id)
    return by.teams.RemoveTeamMember(request)


def delete_group(by: Person, org_id: str, team_id: str) -> Any:
    return by.teams.DeleteTeam(pb.DeleteTeamRequest(org_id=org_id, team_id=team_id))


async def in_group(by: Person, org_id: str, team_id: str) -> list[pb.TeamMember]:
    request = pb.ListTeamMembersRequest(org_id=org_id, team_id=team_id)
    return list((await by.teams.ListTeamMembers(request)).members)
