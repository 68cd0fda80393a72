"""Members of workspaces: what their roles allow, and that nobody gives or takes what they lack."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace.v1 import org_pb2
from aiworkspace.v1 import workspace_pb2 as pb
from tests.support.outcomes import NOT_FOUND, OK, PERMISSION_MISSING, named, outcome, outcomes, refusal
from tests.support.pagination import few, read_all
from tests.support.people import Person, join, make_conversation, make_org, make_workspace
from tests.support.staff import MEMBER, VIEWER, Team
from tests.support.teams import add, delete_group, make_group, take_out
from tests.support.workspaces import (
    CLOSED,
    EDITOR,
    MANAGER,
    OPEN,
    READER,
    delete_workspace,
    get_workspace,
    in_workspace,
    list_workspaces,
    set_visibility,
    share,
    unshare,
    update_workspace,
)


async def sees(person: Person, org_id: str, workspace_id: str) -> bool:
    """Whether the list has it, which is so exactly when it can be read."""
    listed = await list_workspaces(person, org_id)
    found = workspace_id in [workspace.workspace_id for workspace in listed]
    assert await outcome(get_workspace(person, workspace_id)) == (OK if found else NOT_FOUND)
    return found


# What a role allows, in the words of the contract

BY_ORG_ROLE = {"billing": "", "viewer": "see", "member": "see change talk", "admin": "", "owner": ""}
BY_WORKSPACE_ROLE = {0: "", READER: "see", EDITOR: "see change talk", MANAGER: "see change talk share delete"}
ADMINISTRATORS = ("admin", "owner")
ORG_ROLES = {name: org_pb2.Role.Value(f"ROLE_{name.upper()}") for name in BY_ORG_ROLE}


def allowed(org_role: str, visibility: int, workspace_role: int) -> set[str]:
    if org_role in ADMINISTRATORS:
        return set(BY_WORKSPACE_ROLE[MANAGER].split())
    through_org = BY_ORG_ROLE[org_role] if visibility == OPEN else ""
    return {*through_org.split(), *BY_WORKSPACE_ROLE[workspace_role].split()}


def uses(person: Person, workspace_id: str, other: Person) -> dict[str, Callable[[], Any]]:
    return {
        "see": lambda: in_workspace(person, workspace_id),
        "change": lambda: update_workspace(person, workspace_id, name="Renamed"),
        "talk": lambda: make_conversation(person, workspace_id),
        "share": lambda: share(person, workspace_id, READER, user_id=other.user_id),
        "delete": lambda: delete_workspace(person, workspace_id),
    }


@pytest.mark.parametrize("way", ["direct", "team"])
@pytest.mark.parametrize("visibility", [OPEN, CLOSED], ids=["open", "closed"])
@pytest.mark.parametrize("org_role", ORG_ROLES)
async def test_what_a_role_allows(org_role: str, visibility: int, way: str, team: Team) -> None:
    person = team.outsider
    await join(team.owner, team.org_id, person, ORG_ROLES[org_role])
    for role in BY_WORKSPACE_ROLE:
        workspace_id = await make_workspace(team.owner, team.org_id, visibility=visibility)
        if role and way == "team":
            await share(team.owner, workspace_id, role, team_id=await make_group(team.owner, team.org_id, person))
        elif role:
            await share(team.owner, workspace_id, role, user_id=person.user_id)
        may = allowed(org_role, visibility, role)
        assert await sees(person, team.org_id, workspace_id) == ("see" in may)
        refused = PERMISSION_MISSING if "see" in may else NOT_FOUND
        for what, call in uses(person, workspace_id, team.viewer).items():
            assert await outcome(call()) == (OK if what in may else refused), (role, what)


# Setting and removing


async def test_the_creator_is_the_manager_and_the_only_member(team: Team) -> None:
    workspace_id = await make_workspace(team.member, team.org_id, visibility=CLOSED)
    assert await in_workspace(team.member, workspace_id) == {team.member.user_id: MANAGER}
    assert not await sees(team.viewer, team.org_id, workspace_id)
    assert await sees(team.admin, team.org_id, workspace_id), "administrators see them all"


async def test_a_member_is_what_was_asked_for(team: Team) -> None:
    workspace_id = await make_workspace(team.member, team.org_id)
    group = await make_group(team.admin, team.org_id, name="Physicists")
    person = (await share(team.member, workspace_id, EDITOR, user_id=team.viewer.user_id)).member
    people = (await share(team.member, workspace_id, READER, team_id=group)).member
    assert (person.user_id, person.team_id, person.display_name) == (team.viewer.user_id, "", "Somebody")
    assert (people.user_id, people.team_id, people.display_name) == ("", group, "Physicists")
    assert (person.role, people.role, person.workspace_id) == (EDITOR, READER, workspace_id)
    request = pb.ListWorkspaceMembersRequest(workspace_id=workspace_id)
    listed = (await team.viewer.workspaces.ListWorkspaceMembers(request)).members
    assert person in listed
    assert people in listed
    assert len(listed) == 3


async def test_setting_again_changes_the_role(team: Team) -> None:
    workspace_id = await make_workspace(team.member, team.org_id)
    first = (await share(team.member, workspace_id, READER, user_id=team.viewer.user_id)).member
    calls = [share(team.member, workspace_id, EDITOR, user_id=team.viewer.user_id) for _ in range(50)]
    assert await outcomes(calls) == {OK: 50}
    second = (await share(team.member, workspace_id, EDITOR, user_id=team.viewer.user_id)).member
    assert (second.role, second.create_time) == (EDITOR, first.create_time)
    assert len(await in_workspace(team.member, workspace_id)) == 2


async def test_fifty_who_make_somebody_a_member_make_one_membership(team: Team) -> None:
    workspace_id = await make_workspace(team.member, team.org_id)
    calls = [share(team.member, workspace_id, READER, user_id=team.viewer.user_id) for _ in range(50)]
    assert await outcomes(calls) == {OK: 50}
    assert len(await in_workspace(team.member, workspace_id)) == 2


async def test_of_fifty_removals_one_removes(team: Team) -> None:
    workspace_id = await make_workspace(team.member, team.org_id)
    await share(team.member, workspace_id, READER, user_id=team.viewer.user_id)
    calls = [unshare(team.member, workspace_id, user_id=team.viewer.user_id) for _ in range(50)]
    assert await outcomes(calls) == {OK: 1, NOT_FOUND: 49}


@pytest.mark.parametrize("who", ["", "user", "team", "user team"])
async def test_either_a_person_or_a_team_is_meant(who: str, team: Team) -> None:
    workspace_id = await make_workspace(team.member, team.org_id)
    group = await make_group(team.admin, team.org_id)
    ids = {"user": {"user_id": team.member.user_id}, "team": {"team_id": group}}
    fields = {name: value for each in who.split() for name, value in ids[each].items()}
    expected = () if who in ids else ("user_id",)
    assert await named(share(team.member, workspace_id, READER, **fields)) == expected
    if expected:
        assert await named(unshare(team.member, workspace_id, **fields)) == expected


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"role": 0}, "role"), ({"role": 9}, "role"), ({"user_id": "1"}, "user_id"), ({"team_id": "1"}, "team_id")],
)
async def test_what_breaks_a_rule_is_refused_by_name(fields: dict[str, Any], field: str, team: Team) -> None:
    workspace_id = await make_workspace(team.member, team.org_id)
    request: dict[str, Any] = {"role": READER, "user_id": team.viewer.user_id} | fields
    assert await named(share(team.member, workspace_id, **request)) == (field,)
    assert await named(set_visibility(team.member, workspace_id, 0)) == ("visibility",)
    assert await named(set_visibility(team.member, workspace_id, 3)) == ("visibility",)


async def test_strangers_are_as_unknown_as_nobody(team: Team) -> None:
    workspace_id, nobody = await make_workspace(team.owner, team.org_id), str(uuid.uuid4())
    foreign_group = await make_group(team.owner, await make_org(team.owner))
    own_group = await make_group(team.owner, team.org_id)
    strangers = [
        ("user_id", team.outsider.user_id),
        ("user_id", own_group),  # a team is nobody
        ("team_id", foreign_group),
        ("team_id", team.viewer.user_id),
    ]
    for field, stranger in strangers:
        calls: list[Callable[[dict[str, str]], Any]] = [
            lambda who: share(team.owner, workspace_id, READER, **who),
            lambda who: unshare(team.owner, workspace_id, **who),
        ]
        for call in calls:
            foreign, unknown = [await refusal(call({field: each})) for each in (stranger, nobody)]
            assert foreign == unknown
            assert unknown
            assert (unknown.code, unknown.message) == ("NOT_FOUND", f"{field}: not found.")
    assert await in_workspace(team.owner, workspace_id) == {team.owner.user_id: MANAGER}


async def test_a_foreign_workspace_is_as_unknown_as_one_that_never_was(team: Team) -> None:
    foreign = await make_workspace(team.outsider, await make_org(team.outsider))
    closed = await make_workspace(team.owner, team.org_id, visibility=CLOSED)
    refused = [await every_refusal(team, workspace_id) for workspace_id in (foreign, closed, str(uuid.uuid4()))]
    assert refused[0] == refused[1] == refused[2]
    assert await in_workspace(team.outsider, foreign) == {team.outsider.user_id: MANAGER}


async def every_refusal(team: Team, workspace_id: str) -> list[Any]:
    person = team.member
    refused = [
        await refusal(share(person, workspace_id, READER, user_id=person.user_id)),
        await refusal(unshare(person, workspace_id, user_id=person.user_id)),
        await refusal(set_visibility(person, workspace_id, OPEN)),
        await refusal(in_workspace(person, workspace_id)),
    ]
    assert {each.code for each in refused if each} == {"NOT_FOUND"}
    return refused


async def test_everybody_may_leave(team: Team) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id, visibility=CLOSED)
    await share(team.owner, workspace_id, READER, user_id=team.viewer.user_id)
    await share(team.owner, workspace_id, EDITOR, user_id=team.member.user_id)
    assert await outcome(unshare(team.viewer, workspace_id, user_id=team.member.user_id)) == PERMISSION_MISSING
    assert await outcome(unshare(team.viewer, workspace_id, user_id=team.viewer.user_id.upper())) == OK
    assert not await sees(team.viewer, team.org_id, workspace_id)
    assert await in_workspace(team.owner, workspace_id) == {team.owner.user_id: MANAGER, team.member.user_id: EDITOR}


async def test_the_visibility_changes_the_version_once(team: Team) -> None:
    workspace_id = await make_workspace(team.member, team.org_id)
    for _ in range(2):
        workspace = (await set_visibility(team.member, workspace_id, CLOSED)).workspace
        assert (workspace.visibility, workspace.etag) == (CLOSED, "2")
    assert (await get_workspace(team.member, workspace_id)) == workspace


@pytest.fixture(scope="module")
async def full(staff: dict[str, Person]) -> tuple[Person, str]:
    """The manager of a workspace with three more people and three teams."""
    owner = staff["owner"]
    org_id = await make_org(owner)
    workspace_id = await make_workspace(owner, org_id)
    for name in ("admin", "member", "viewer"):
        await join(owner, org_id, staff[name], VIEWER)
        await share(owner, workspace_id, READER, user_id=staff[name].user_id)
        await share(owner, workspace_id, EDITOR, team_id=await make_group(owner, org_id, name=name))
    return owner, workspace_id


@few
@given(size=st.integers(1, 8))
async def test_pages_of_members_add_up(size: int, full: tuple[Person, str]) -> None:
    owner, workspace_id = full
    request = pb.ListWorkspaceMembersRequest(workspace_id=workspace_id)
    found = await read_all(owner.workspaces.ListWorkspaceMembers, request, "members", size)
    ids = [member.user_id or member.team_id for member in found]
    assert ids == sorted(await in_workspace(owner, workspace_id))
    assert len(ids) == 7
    assert sorted(member.display_name for member in found) == ["Somebody"] * 4 + ["admin", "member", "viewer"]


# What was given and taken counts at once


async def test_what_a_team_gives_comes_and_goes_with_it(team: Team) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id, visibility=CLOSED)
    group = await make_group(team.owner, team.org_id)
    person, org_id = team.viewer, team.org_id
    steps: list[tuple[Callable[[], Any], bool]] = [
        (lambda: share(team.owner, workspace_id, READER, team_id=group), False),
        (lambda: add(team.owner, org_id, group, person.user_id), True),
        (lambda: take_out(person, org_id, group, person.user_id), False),
        (lambda: add(team.owner, org_id, group, person.user_id), True),
        (lambda: unshare(team.owner, workspace_id, team_id=group), False),
        (lambda: share(team.owner, workspace_id, READER, team_id=group), True),
        (lambda: share(team.owner, workspace_id, READER, user_id=person.user_id), True),
        (lambda: delete_group(team.owner, org_id, group), True),
        (lambda: unshare(team.owner, workspace_id, user_id=person.user_id), False),
        (lambda: set_visibility(team.owner, workspace_id, OPEN), True),
        (lambda: set_visibility(team.owner, workspace_id, CLOSED), False),
    ]
    for number, (step, seen) in enumerate(steps):
        await step()
        assert await sees(person, org_id, workspace_id) == seen, number


async def test_a_lower_role_counts_from_the_next_call_on(team: Team) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id, visibility=CLOSED)
    for role, expected in [(MANAGER, OK), (READER, PERMISSION_MISSING), (EDITOR, OK), (READER, PERMISSION_MISSING)]:
        await share(team.owner, workspace_id, role, user_id=team.viewer.user_id)
        assert await outcome(update_workspace(team.viewer, workspace_id, name="Renamed")) == expected


async def test_who_comes_back_to_the_organization_has_no_former_place(team: Team) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id, visibility=CLOSED)
    await share(team.owner, workspace_id, MANAGER, user_id=team.member.user_id)
    group = await make_group(team.owner, team.org_id, team.member)
    await share(team.owner, workspace_id, EDITOR, team_id=group)
    for _ in range(3):
        assert await outcome(update_workspace(team.member, workspace_id, name="Renamed")) == OK
        await team.owner.orgs.RemoveMember(org_pb2.RemoveMemberRequest(org_id=team.org_id, user_id=team.member.user_id))
        await join(team.owner, team.org_id, team.member, MEMBER)
        assert await outcome(update_workspace(team.member, workspace_id, name="Renamed")) == NOT_FOUND
        assert await in_workspace(team.owner, workspace_id) == {team.owner.user_id: MANAGER, group: EDITOR}
        await share(team.owner, workspace_id, MANAGER, user_id=team.member.user_id)


async def test_suspended_members_keep_their_places_without_effect(team: Team) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id, visibility=CLOSED)
    whom: dict[str, Any] = {"org_id": team.org_id, "user_id": team.member.user_id}
    await share(team.owner, workspace_id, MANAGER, user_id=team.member.user_id)
    assert await outcome(update_workspace(team.member, workspace_id, name="Renamed")) == OK
    await team.owner.orgs.SuspendMember(org_pb2.SuspendMemberRequest(**whom))
    group = await make_group(team.owner, team.org_id, team.member)
    await share(team.owner, workspace_id, EDITOR, team_id=group)
    assert await outcome(update_workspace(team.member, workspace_id, name="Renamed")) == NOT_FOUND
    await unshare(team.owner, workspace_id, user_id=team.member.user_id)
    await team.owner.orgs.ReinstateMember(org_pb2.ReinstateMemberRequest(**whom))
    assert await outcome(update_workspace(team.member, workspace_id, name="Renamed")) == OK, "through the team"
    assert await outcome(delete_workspace(team.member, workspace_id)) == PERMISSION_MISSING
