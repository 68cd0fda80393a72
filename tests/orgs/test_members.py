"""Members: their roles, how they change, and that an organization keeps an owner."""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace.v1 import org_pb2 as pb
from tests.support.orgs import list_members, remove_member, update_member, update_org
from tests.support.outcomes import (
    ETAG_MISMATCH,
    LAST_OWNER,
    NOT_FOUND,
    OK,
    PERMISSION_MISSING,
    named,
    outcome,
    outcomes,
    refusal,
)
from tests.support.pagination import few, read_all
from tests.support.people import Person, join, make_conversation, make_org, make_workspace
from tests.support.runs import say
from tests.support.staff import ADMIN, MEMBER, OWNER, VIEWER, Team


async def role_of(team: Team, person: Person) -> int:
    """0 when the person is no member."""
    found = [member.role for member in await list_members(team.viewer, team.org_id) if member.user_id == person.user_id]
    return found[0] if found else 0


# Listing


async def test_the_list_says_who_is_what_the_oldest_first(team: Team) -> None:
    listed = await list_members(team.viewer, team.org_id)
    people = [team.owner, team.admin, team.member, team.viewer]
    assert [member.user_id for member in listed] == [person.user_id for person in people]
    assert [member.email for member in listed] == [person.email for person in people]
    assert [member.role for member in listed] == [OWNER, ADMIN, MEMBER, VIEWER]
    assert {(member.org_id, member.display_name, member.etag) for member in listed} == {(team.org_id, "Somebody", "1")}
    assert await outcome(list_members(team.outsider, team.org_id)) == NOT_FOUND


@pytest.fixture(scope="module")
async def crowd(staff: dict[str, Person]) -> tuple[Person, str]:
    """The owner of an organization with five members."""
    owner = staff["owner"]
    org_id = await make_org(owner)
    for person in [person for person in staff.values() if person is not owner]:
        await join(owner, org_id, person, VIEWER)
    return owner, org_id


@few
@given(size=st.integers(1, 6))
async def test_pages_of_members_add_up(size: int, crowd: tuple[Person, str]) -> None:
    owner, org_id = crowd
    found = await read_all(owner.orgs.ListMembers, pb.ListMembersRequest(org_id=org_id), "members", size)
    assert found == await list_members(owner, org_id)
    assert len({member.user_id for member in found}) == 5


# Roles


@pytest.mark.parametrize("paths", [[], ["role"]], ids=str)
async def test_a_promotion_counts_from_the_next_call_on(paths: list[str], team: Team) -> None:
    assert await outcome(update_org(team.member, team.org_id, name="Renamed")) == PERMISSION_MISSING
    changed = (await update_member(team.admin, team.org_id, team.member, *paths, role=ADMIN)).member
    assert (changed.role, changed.etag, changed.email) == (ADMIN, "2", team.member.email)
    assert await outcome(update_org(team.member, team.org_id, name="Renamed")) == OK


async def test_a_demotion_counts_from_the_next_call_on(team: Team) -> None:
    assert await outcome(update_org(team.admin, team.org_id, name="Renamed")) == OK
    await update_member(team.owner, team.org_id, team.admin, role=VIEWER)
    assert await outcome(update_org(team.admin, team.org_id, name="Renamed")) == PERMISSION_MISSING
    assert (await team.admin.orgs.GetOrg(pb.GetOrgRequest(org_id=team.org_id))).org.role == VIEWER


async def test_a_removal_counts_from_the_next_call_on(team: Team) -> None:
    workspace_id = await make_workspace(team.member, team.org_id)
    conversation_id = await make_conversation(team.member, workspace_id)
    await say(team.member, conversation_id, "hello")
    await remove_member(team.admin, team.org_id, team.member)
    assert await outcome(list_members(team.member, team.org_id)) == NOT_FOUND
    assert await outcome(make_conversation(team.member, workspace_id)) == NOT_FOUND
    assert await outcome(say(team.member, conversation_id, "hello again")) == NOT_FOUND
    assert await role_of(team, team.member) == 0
    await join(team.owner, team.org_id, team.member, VIEWER)
    assert await outcome(list_members(team.member, team.org_id)) == OK, "who comes back is let in at once"


CHANGES = [
    # who, whom, from, to, what comes of it
    ("viewer", "member", VIEWER, PERMISSION_MISSING),
    ("member", "viewer", VIEWER, PERMISSION_MISSING),
    ("member", "member", ADMIN, PERMISSION_MISSING),
    ("outsider", "viewer", MEMBER, NOT_FOUND),
    ("admin", "viewer", ADMIN, OK),
    ("admin", "viewer", OWNER, PERMISSION_MISSING),
    ("admin", "admin", OWNER, PERMISSION_MISSING),
    ("admin", "admin", VIEWER, OK),
    ("admin", "owner", VIEWER, PERMISSION_MISSING),
    ("owner", "viewer", OWNER, OK),
    ("owner", "admin", OWNER, OK),
    ("owner", "owner", ADMIN, LAST_OWNER),
    ("owner", "outsider", ADMIN, NOT_FOUND),
]


@pytest.mark.parametrize(("who", "whom", "to", "expected"), CHANGES)
async def test_who_may_make_whom_what(who: str, whom: str, to: int, expected: str, team: Team) -> None:
    before = await role_of(team, team.somebody(whom))
    assert await outcome(update_member(team.somebody(who), team.org_id, team.somebody(whom), role=to)) == expected
    assert await role_of(team, team.somebody(whom)) == (to if expected == OK else before)


async def test_an_owner_unmakes_an_owner(team: Team) -> None:
    await update_member(team.owner, team.org_id, team.admin, role=OWNER)
    assert await outcome(update_member(team.admin, team.org_id, team.owner, role=MEMBER)) == OK
    assert await role_of(team, team.owner) == MEMBER


async def test_a_stale_etag_is_refused(team: Team) -> None:
    calls = [
        update_member(team.owner, team.org_id, team.viewer, role=role, etag="1") for role in (MEMBER, ADMIN, OWNER)
    ]
    assert await outcomes(calls) == {OK: 1, ETAG_MISMATCH: 2}


@pytest.mark.parametrize(
    ("role", "paths", "field"),
    [(0, ["role"], "member.role"), (7, [], "member.role"), (MEMBER, ["nothing"], "update_mask")],
)
async def test_what_breaks_a_rule_is_refused_by_name(role: int, paths: list[str], field: str, team: Team) -> None:
    assert await named(update_member(team.owner, team.org_id, team.viewer, *paths, role=role)) == (field,)
    assert await role_of(team, team.viewer) == VIEWER


async def test_output_only_fields_are_ignored(team: Team) -> None:
    member = pb.Member(
        org_id=team.org_id, user_id=team.viewer.user_id, email="x@example.com", display_name="X", role=ADMIN
    )
    mask = FieldMask(paths=["email", "display_name", "create_time", "user_id", "org_id"])
    before = (await list_members(team.owner, team.org_id))[-1]
    changed = (await team.owner.orgs.UpdateMember(pb.UpdateMemberRequest(member=member, update_mask=mask))).member
    assert changed == before


# Leaving and removing


@pytest.mark.parametrize(
    ("who", "whom", "expected"),
    [
        ("viewer", "viewer", OK),
        ("member", "member", OK),
        ("admin", "admin", OK),
        ("owner", "owner", LAST_OWNER),
        ("viewer", "member", PERMISSION_MISSING),
        ("member", "viewer", PERMISSION_MISSING),
        ("admin", "member", OK),
        ("admin", "owner", PERMISSION_MISSING),
        ("owner", "admin", OK),
        ("owner", "outsider", NOT_FOUND),
        ("outsider", "outsider", NOT_FOUND),
        ("outsider", "viewer", NOT_FOUND),
    ],
)
async def test_who_may_remove_whom(who: str, whom: str, expected: str, team: Team) -> None:
    assert await outcome(remove_member(team.somebody(who), team.org_id, team.somebody(whom))) == expected
    left = {member.user_id for member in await list_members(team.admin if whom != "admin" else team.owner, team.org_id)}
    assert (team.somebody(whom).user_id in left) == (expected != OK and whom != "outsider")


async def test_an_upper_case_id_is_still_ones_own(team: Team) -> None:
    request = pb.RemoveMemberRequest(org_id=team.org_id.upper(), user_id=team.viewer.user_id.upper())
    assert await outcome(team.viewer.orgs.RemoveMember(request)) == OK


async def test_a_second_owner_may_leave(team: Team) -> None:
    await update_member(team.owner, team.org_id, team.admin, role=OWNER)
    assert await outcome(remove_member(team.owner, team.org_id, team.owner)) == OK
    assert await role_of(team, team.admin) == OWNER
    assert await outcome(remove_member(team.admin, team.org_id, team.admin)) == LAST_OWNER


TOGETHER: dict[str, Callable[[Team, Person, Person], Sequence[Any]]] = {
    "leave": lambda team, one, two: (remove_member(one, team.org_id, one), remove_member(two, team.org_id, two)),
    "demote each other": lambda team, one, two: (
        update_member(one, team.org_id, two, role=VIEWER),
        update_member(two, team.org_id, one, role=VIEWER),
    ),
    "remove each other": lambda team, one, two: (
        remove_member(one, team.org_id, two),
        remove_member(two, team.org_id, one),
    ),
    "step down": lambda team, one, two: (
        update_member(one, team.org_id, one, role=VIEWER),
        update_member(two, team.org_id, two, role=VIEWER),
    ),
}


@pytest.mark.parametrize("go", TOGETHER.values(), ids=TOGETHER)
async def test_two_owners_who_go_at_the_same_time_leave_one(
    go: Callable[[Team, Person, Person], Sequence[Any]], team: Team
) -> None:
    await update_member(team.owner, team.org_id, team.admin, role=OWNER)
    assert (await outcomes(go(team, team.owner, team.admin)))[OK] == 1
    assert [member.role for member in await list_members(team.viewer, team.org_id)].count(OWNER) == 1


async def test_fifty_demotions_at_once_leave_one_owner(team: Team) -> None:
    await update_member(team.owner, team.org_id, team.admin, role=OWNER)
    await update_member(team.owner, team.org_id, team.member, role=OWNER)
    owners = [team.owner, team.admin, team.member]
    await outcomes(update_member(owners[n % 3], team.org_id, owners[n // 3 % 3], role=VIEWER) for n in range(50))
    assert [member.role for member in await list_members(team.viewer, team.org_id)].count(OWNER) == 1


async def test_strangers_are_as_unknown_as_nobody(team: Team) -> None:
    ids = team.outsider.user_id, str(uuid.uuid4())
    calls = [team.owner.orgs.RemoveMember(pb.RemoveMemberRequest(org_id=team.org_id, user_id=user)) for user in ids]
    foreign, unknown = [await refusal(call) for call in calls]
    assert foreign == unknown
    assert unknown is not None
    assert unknown.code == "NOT_FOUND"
