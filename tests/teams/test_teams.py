"""Teams: what they are, who may change them, and who is in them."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace.v1 import org_pb2
from aiworkspace.v1 import team_pb2 as pb
from tests.support.outcomes import (
    ETAG_MISMATCH,
    NOT_FOUND,
    OK,
    PERMISSION_MISSING,
    REQUEST_ID_REUSED,
    named,
    outcome,
    outcomes,
    refusal,
)
from tests.support.pagination import few, read_all
from tests.support.people import Person, join, make_org
from tests.support.staff import VIEWER, Team
from tests.support.teams import add, delete_group, in_group, make_group, take_out


async def listed(person: Person, org_id: str) -> list[pb.Team]:
    return list((await person.teams.ListTeams(pb.ListTeamsRequest(org_id=org_id))).teams)


async def update(person: Person, org_id: str, team_id: str, *paths: str, **fields: Any) -> pb.Team:
    team = pb.Team(org_id=org_id, team_id=team_id, **fields)
    request = pb.UpdateTeamRequest(team=team, update_mask=FieldMask(paths=paths))
    changed: pb.Team = (await person.teams.UpdateTeam(request)).team
    return changed


@pytest.fixture
async def group(team: Team) -> str:
    """A team with the member in it."""
    return await make_group(team.admin, team.org_id, team.member)


# What a team is


async def test_a_team_is_what_was_asked_for(team: Team) -> None:
    made = (await team.admin.teams.CreateTeam(pb.CreateTeamRequest(org_id=team.org_id, name="Physicists"))).team
    assert (made.org_id, made.name, made.member_count, made.etag) == (team.org_id, "Physicists", 0, "1")
    assert await listed(team.viewer, team.org_id) == [made]


async def test_the_list_counts_the_members_of_each(team: Team, group: str) -> None:
    await make_group(team.owner, team.org_id, team.viewer, team.admin, name="Pair")
    await make_group(team.owner, team.org_id, name="Nobody")
    assert [(each.name, each.member_count) for each in await listed(team.member, team.org_id)] == [
        ("Physicists", 1),
        ("Pair", 2),
        ("Nobody", 0),
    ]


async def test_fifty_concurrent_calls_with_one_request_id_make_one_team(team: Team) -> None:
    request = pb.CreateTeamRequest(org_id=team.org_id, name="Once", request_id=str(uuid.uuid4()))
    assert await outcomes(team.admin.teams.CreateTeam(request) for _ in range(50)) == {OK: 50}
    assert len(await listed(team.admin, team.org_id)) == 1
    request.name = "Other"
    assert await outcome(team.admin.teams.CreateTeam(request)) == REQUEST_ID_REUSED


@pytest.mark.parametrize("name", ["", "x" * 101, "a\nb"], ids=["empty", "long", "two lines"])
async def test_names_have_rules(name: str, team: Team, group: str) -> None:
    request = pb.CreateTeamRequest(org_id=team.org_id, name=name)
    assert await named(team.admin.teams.CreateTeam(request)) == ("name",)
    assert await named(update(team.admin, team.org_id, group, "name", name=name)) == ("team.name",)
    assert [each.name for each in await listed(team.admin, team.org_id)] == ["Physicists"]


async def test_only_the_name_changes(team: Team, group: str) -> None:
    paths = list(pb.Team.DESCRIPTOR.fields_by_name)
    changed = await update(team.admin, team.org_id, group, *paths, name="Chemists", member_count=7, etag="1")
    assert (changed.name, changed.member_count, changed.etag) == ("Chemists", 1, "2")
    assert await listed(team.viewer, team.org_id) == [changed]


async def test_of_concurrent_changes_with_one_etag_one_succeeds(team: Team, group: str) -> None:
    calls = [update(team.admin, team.org_id, group, name=f"Team {number}", etag="1") for number in range(10)]
    assert await outcomes(calls) == {OK: 1, ETAG_MISMATCH: 9}


async def test_a_deleted_team_is_as_unknown_as_one_that_never_was(team: Team, group: str) -> None:
    await delete_group(team.admin, team.org_id, group)
    assert await every_refusal(team, group) == await every_refusal(team, str(uuid.uuid4()))
    assert await listed(team.admin, team.org_id) == []


async def test_another_organizations_team_is_as_unknown_as_one_that_never_was(team: Team) -> None:
    org_id = await make_org(team.admin)
    foreign = await make_group(team.admin, org_id, team.admin)
    assert await every_refusal(team, foreign) == await every_refusal(team, str(uuid.uuid4()))
    assert [(each.team_id, each.member_count, each.etag) for each in await listed(team.admin, org_id)] == [
        (foreign, 1, "1")
    ]


async def every_refusal(team: Team, team_id: str) -> list[Any]:
    by, org_id, user_id = team.admin, team.org_id, team.admin.user_id
    refused = [
        await refusal(update(by, org_id, team_id, name="x")),
        await refusal(delete_group(by, org_id, team_id)),
        await refusal(add(by, org_id, team_id, user_id)),
        await refusal(take_out(by, org_id, team_id, user_id)),
        await refusal(in_group(by, org_id, team_id)),
    ]
    assert {each.code for each in refused if each} == {"NOT_FOUND"}
    return refused


@pytest.fixture(scope="module")
async def seven(staff: dict[str, Person]) -> tuple[Person, str]:
    """The owner of an organization with seven teams, the first of which has everybody in it."""
    owner = staff["owner"]
    org_id = await make_org(owner)
    for person in [person for person in staff.values() if person is not owner]:
        await join(owner, org_id, person, VIEWER)
    await make_group(owner, org_id, *staff.values(), name="0")
    for number in range(1, 7):
        await make_group(owner, org_id, name=str(number))
    return owner, org_id


@few
@given(size=st.integers(1, 8))
async def test_pages_of_teams_add_up(size: int, seven: tuple[Person, str]) -> None:
    owner, org_id = seven
    found = await read_all(owner.teams.ListTeams, pb.ListTeamsRequest(org_id=org_id), "teams", size)
    assert [each.name for each in found] == list("0123456")


@few
@given(size=st.integers(1, 6))
async def test_pages_of_team_members_add_up(size: int, seven: tuple[Person, str], staff: dict[str, Person]) -> None:
    owner, org_id = seven
    team_id = (await listed(owner, org_id))[0].team_id
    request = pb.ListTeamMembersRequest(org_id=org_id, team_id=team_id)
    found = await read_all(owner.teams.ListTeamMembers, request, "members", size)
    assert [each.user_id for each in found] == sorted(person.user_id for person in staff.values())


# Who is in it


async def test_adding_again_changes_nothing(team: Team, group: str) -> None:
    before = await in_group(team.viewer, team.org_id, group)
    assert await outcomes(add(team.admin, team.org_id, group, team.member.user_id) for _ in range(20)) == {OK: 20}
    assert await in_group(team.viewer, team.org_id, group) == before
    assert [(each.team_id, each.user_id, each.display_name) for each in before] == [
        (group, team.member.user_id, "Somebody")
    ]


async def test_fifty_at_once_come_in_once(team: Team, group: str) -> None:
    calls = [add(team.admin, team.org_id, group, team.viewer.user_id) for _ in range(50)]
    assert await outcomes(calls) == {OK: 50}
    assert (await listed(team.admin, team.org_id))[0].member_count == 2


async def test_strangers_are_as_unknown_as_nobody(team: Team, group: str) -> None:
    for call in (add, take_out):
        foreign = await refusal(call(team.admin, team.org_id, group, team.outsider.user_id))
        unknown = await refusal(call(team.admin, team.org_id, group, str(uuid.uuid4())))
        assert foreign == unknown
        assert unknown
        assert unknown.code == "NOT_FOUND"
    assert await outcome(take_out(team.admin, team.org_id, group, team.viewer.user_id)) == NOT_FOUND
    assert len(await in_group(team.admin, team.org_id, group)) == 1


async def test_who_comes_back_to_the_organization_is_in_no_team(team: Team, group: str) -> None:
    await team.owner.orgs.RemoveMember(org_pb2.RemoveMemberRequest(org_id=team.org_id, user_id=team.member.user_id))
    assert await in_group(team.admin, team.org_id, group) == []
    await join(team.owner, team.org_id, team.member, VIEWER)
    assert await in_group(team.admin, team.org_id, group) == []


ROLES = ["viewer", "member", "admin", "owner", "outsider"]
ALLOWED = {
    # viewer, member, admin, owner, outsider
    "create": [PERMISSION_MISSING, PERMISSION_MISSING, OK, OK, NOT_FOUND],
    "list": [OK, OK, OK, OK, NOT_FOUND],
    "update": [PERMISSION_MISSING, PERMISSION_MISSING, OK, OK, NOT_FOUND],
    "delete": [PERMISSION_MISSING, PERMISSION_MISSING, OK, OK, NOT_FOUND],
    "add": [PERMISSION_MISSING, PERMISSION_MISSING, OK, OK, NOT_FOUND],
    "add oneself": [PERMISSION_MISSING, PERMISSION_MISSING, OK, OK, NOT_FOUND],
    "remove": [PERMISSION_MISSING, OK, OK, OK, NOT_FOUND],  # the member is the one who is in it, and leaves
    "list members": [OK, OK, OK, OK, NOT_FOUND],
}
UNCHANGING = ("list", "list members")


@pytest.mark.parametrize(
    ("what", "role", "expected"),
    [(what, role, expected) for what, row in ALLOWED.items() for role, expected in zip(ROLES, row, strict=True)],
)
async def test_who_may_do_what(what: str, role: str, expected: str, team: Team, group: str) -> None:
    person, org_id = team.somebody(role), team.org_id
    if what == "add oneself" and role == "member":
        await take_out(team.admin, org_id, group, team.member.user_id)
    calls: dict[str, Callable[[], Any]] = {
        "create": lambda: make_group(person, org_id),
        "list": lambda: listed(person, org_id),
        "update": lambda: update(person, org_id, group, name="Changed"),
        "delete": lambda: delete_group(person, org_id, group),
        "add": lambda: add(person, org_id, group, team.viewer.user_id),
        "add oneself": lambda: add(person, org_id, group, person.user_id),
        "remove": lambda: take_out(person, org_id, group, team.member.user_id),
        "list members": lambda: in_group(person, org_id, group),
    }
    before = await listed(team.owner, org_id)
    assert await outcome(calls[what]()) == expected
    assert (await listed(team.owner, org_id) == before) == (expected != OK or what in UNCHANGING)
