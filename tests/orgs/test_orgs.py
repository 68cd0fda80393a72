"""Organizations: creating, reading, changing and deleting them."""

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace.v1 import chat_pb2, usage_pb2, workspace_pb2
from aiworkspace.v1 import org_pb2 as pb
from tests.support.orgs import get_org, update_org
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
from tests.support.people import NewPerson, Person, make_conversation, make_org, make_workspace
from tests.support.staff import ADMIN, MEMBER, OWNER, VIEWER, Team


async def list_ids(person: Person) -> list[str]:
    return [org.org_id for org in (await person.orgs.ListOrgs(pb.ListOrgsRequest(page_size=1000))).orgs]


# Creating


async def test_whoever_creates_an_organization_owns_it(owner: Person) -> None:
    made = (await owner.orgs.CreateOrg(pb.CreateOrgRequest(name="Acme"))).org
    assert (made.name, made.role, made.etag) == ("Acme", OWNER, "1")
    assert made.create_time == made.update_time
    assert (await get_org(owner, made.org_id)) == made
    (member,) = (await owner.orgs.ListMembers(pb.ListMembersRequest(org_id=made.org_id))).members
    assert (member.user_id, member.role, member.email) == (owner.user_id, OWNER, owner.email)


async def test_creating_again_with_the_same_request_id_makes_one_organization(new_person: NewPerson) -> None:
    person = await new_person()
    request = pb.CreateOrgRequest(name="Acme", request_id=str(uuid.uuid4()))
    first, second = await person.orgs.CreateOrg(request), await person.orgs.CreateOrg(request)
    assert first == second
    assert await list_ids(person) == [first.org.org_id]


async def test_fifty_concurrent_calls_with_one_request_id_make_one_organization(new_person: NewPerson) -> None:
    person = await new_person()
    request = pb.CreateOrgRequest(name="Acme", request_id=str(uuid.uuid4()))
    assert await outcomes(person.orgs.CreateOrg(request) for _ in range(50)) == {OK: 50}
    assert len(await list_ids(person)) == 1


async def test_a_request_id_that_was_used_for_something_else_is_refused(new_person: NewPerson) -> None:
    person = await new_person()
    request_id = str(uuid.uuid4())
    org_id = (await person.orgs.CreateOrg(pb.CreateOrgRequest(name="Acme", request_id=request_id))).org.org_id
    other_name = pb.CreateOrgRequest(name="Other", request_id=request_id)
    assert await outcome(person.orgs.CreateOrg(other_name)) == REQUEST_ID_REUSED
    other_method = workspace_pb2.CreateWorkspaceRequest(org_id=org_id, name="Acme", request_id=request_id)
    assert await outcome(person.workspaces.CreateWorkspace(other_method)) == REQUEST_ID_REUSED
    assert await list_ids(person) == [org_id]


async def test_request_ids_of_different_people_have_nothing_to_do_with_each_other(new_person: NewPerson) -> None:
    request = pb.CreateOrgRequest(name="Acme", request_id=str(uuid.uuid4()))
    made = [(await (await new_person()).orgs.CreateOrg(request)).org.org_id for _ in range(2)]
    assert made[0] != made[1]


async def test_without_a_request_id_every_call_makes_one(new_person: NewPerson) -> None:
    person = await new_person()
    assert await make_org(person) != await make_org(person)


@pytest.mark.parametrize("fields", [{"name": ""}, {"name": "x" * 101}, {"name": "a\tb"}, {"request_id": "1"}], ids=str)
async def test_what_breaks_a_rule_is_refused_by_name(fields: dict[str, str], owner: Person) -> None:
    request = pb.CreateOrgRequest(**{"name": "Acme"} | fields)
    assert await named(owner.orgs.CreateOrg(request)) == tuple(fields)


# Reading


async def test_everybody_reads_the_organization_with_their_own_role(team: Team) -> None:
    people = [team.viewer, team.member, team.admin, team.owner]
    roles = [(await get_org(person, team.org_id)).role for person in people]
    assert roles == [VIEWER, MEMBER, ADMIN, OWNER]
    assert await outcome(get_org(team.outsider, team.org_id)) == NOT_FOUND


async def test_a_list_of_organizations_has_those_that_one_can_get(team: Team, new_person: NewPerson) -> None:
    person = await new_person()
    own = [await make_org(person) for _ in range(3)]
    assert await list_ids(person) == own, "the oldest first"
    for member in (team.owner, team.viewer):
        listed = (await member.orgs.ListOrgs(pb.ListOrgsRequest(page_size=1000))).orgs
        assert [org for org in listed if org.org_id == team.org_id] == [(await get_org(member, team.org_id))]
    assert team.org_id not in await list_ids(team.outsider)


@pytest.fixture(scope="module")
async def founder(new_person: NewPerson) -> Person:
    """Owns seven organizations."""
    person = await new_person()
    for number in range(7):
        await make_org(person, f"Org {number}")
    return person


@few
@given(size=st.integers(1, 8))
async def test_pages_of_organizations_add_up(size: int, founder: Person) -> None:
    orgs = await read_all(founder.orgs.ListOrgs, pb.ListOrgsRequest(), "orgs", size)
    assert [org.name for org in orgs] == [f"Org {number}" for number in range(7)]


# Changing


@pytest.mark.parametrize("paths", [[], ["name"]], ids=str)
async def test_an_admin_renames_the_organization(paths: list[str], team: Team) -> None:
    before = await get_org(team.admin, team.org_id)
    after = await update_org(team.admin, team.org_id, *paths, name="Acme 2", etag=before.etag)
    assert (after.name, after.role, after.etag) == ("Acme 2", ADMIN, "2")
    assert (await get_org(team.admin, team.org_id)) == after


async def test_output_only_fields_are_ignored(team: Team) -> None:
    before = await get_org(team.admin, team.org_id)
    paths = [name for name in pb.Org.DESCRIPTOR.fields_by_name if name != "name"]
    given = {"role": OWNER, "create_time": before.update_time, "name": "Not in the mask"}
    after = await update_org(team.admin, team.org_id, *paths, **given)
    assert (after.role, after.create_time, after.name) == (before.role, before.create_time, before.name)


async def test_a_stale_etag_is_refused(team: Team) -> None:
    calls = [update_org(team.owner, team.org_id, name=f"Acme {number}", etag="1") for number in range(10)]
    assert await outcomes(calls) == {OK: 1, ETAG_MISMATCH: 9}


@pytest.mark.parametrize(("path", "name"), [("name", ""), ("name", "x" * 101), ("name", "a\0b")])
async def test_a_name_that_breaks_a_rule_is_refused(path: str, name: str, team: Team) -> None:
    assert await named(update_org(team.owner, team.org_id, path, name=name)) == ("org.name",)


async def test_an_unknown_mask_path_is_refused(team: Team) -> None:
    assert await named(update_org(team.owner, team.org_id, "delete_time", name="x")) == ("update_mask",)


@pytest.mark.parametrize(
    ("role", "expected"),
    [("viewer", PERMISSION_MISSING), ("member", PERMISSION_MISSING), ("admin", OK), ("outsider", NOT_FOUND)],
)
async def test_who_may_rename(role: str, expected: str, team: Team) -> None:
    assert await outcome(update_org(team.somebody(role), team.org_id, name="Mine now")) == expected
    changed = (await get_org(team.owner, team.org_id)).name == "Mine now"
    assert changed == (expected == OK)


# Deleting


@pytest.mark.parametrize(
    ("role", "expected"),
    [("viewer", PERMISSION_MISSING), ("admin", PERMISSION_MISSING), ("owner", OK), ("outsider", NOT_FOUND)],
)
async def test_who_may_delete(role: str, expected: str, team: Team) -> None:
    delete = pb.DeleteOrgRequest(org_id=team.org_id)
    assert await outcome(team.somebody(role).orgs.DeleteOrg(delete)) == expected
    assert await outcome(get_org(team.viewer, team.org_id)) == (NOT_FOUND if expected == OK else OK)


async def test_a_deleted_organization_is_as_unknown_as_one_that_never_was(team: Team) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id)
    conversation_id = await make_conversation(team.owner, workspace_id)
    invitation = pb.CreateInvitationRequest(org_id=team.org_id, email=team.outsider.email, role=MEMBER)
    token = (await team.owner.orgs.CreateInvitation(invitation)).token
    await team.owner.orgs.DeleteOrg(pb.DeleteOrgRequest(org_id=team.org_id))
    for person in (team.owner, team.viewer):
        deleted = await every_refusal(person, team.org_id, workspace_id, conversation_id)
        assert deleted == await every_refusal(person, *(str(uuid.uuid4()) for _ in range(3)))
        assert {refused.code for refused in deleted} == {"NOT_FOUND"}
        assert team.org_id not in await list_ids(person)
    accept = pb.AcceptInvitationRequest(token=token)
    assert await outcome(team.outsider.orgs.AcceptInvitation(accept)) == NOT_FOUND


async def every_refusal(person: Person, org_id: str, workspace_id: str, conversation_id: str) -> list[Any]:
    return [
        await refusal(get_org(person, org_id)),
        await refusal(update_org(person, org_id, name="x")),
        await refusal(person.orgs.DeleteOrg(pb.DeleteOrgRequest(org_id=org_id))),
        await refusal(person.orgs.ListMembers(pb.ListMembersRequest(org_id=org_id))),
        await refusal(person.orgs.ListInvitations(pb.ListInvitationsRequest(org_id=org_id))),
        await refusal(person.orgs.RemoveMember(pb.RemoveMemberRequest(org_id=org_id, user_id=person.user_id))),
        await refusal(person.usage.GetUsage(usage_pb2.GetUsageRequest(org_id=org_id))),
        await refusal(person.workspaces.ListWorkspaces(workspace_pb2.ListWorkspacesRequest(org_id=org_id))),
        await refusal(person.workspaces.GetWorkspace(workspace_pb2.GetWorkspaceRequest(workspace_id=workspace_id))),
        await refusal(person.chat.GetConversation(chat_pb2.GetConversationRequest(conversation_id=conversation_id))),
    ]
