"""An organization with somebody in every role."""

from dataclasses import dataclass

from aiworkspace.v1 import org_pb2
from tests.support.people import NewPerson, Person, join, make_org

VIEWER, MEMBER, ADMIN, OWNER = (
    org_pb2.ROLE_VIEWER,
    org_pb2.ROLE_MEMBER,
    org_pb2.ROLE_ADMIN,
    org_pb2.ROLE_OWNER,
)


@dataclass(frozen=True)
class Team:
    org_id: str
    owner: Person
    admin: Person
    member: Person
    viewer: Person
    outsider: Person

    def somebody(self, role: str) -> Person:
        """`role` is the name of an attribute."""
        person: Person = getattr(self, role)
        return person


async def hire(new_person: NewPerson) -> dict[str, Person]:
    """People who can be made a team again and again."""
    return {role: await new_person() for role in ("owner", "admin", "member", "viewer", "outsider")}


async def make_team(staff: dict[str, Person]) -> Team:
    team = Team(await make_org(staff["owner"]), **staff)
    await join(team.owner, team.org_id, team.admin, ADMIN)
    await join(team.owner, team.org_id, team.member, MEMBER)
    await join(team.owner, team.org_id, team.viewer, VIEWER)
    return team
