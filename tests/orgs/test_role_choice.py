"""Which role a member or an invitation gets: one of the built-in ones, or one of the organization's own."""

import uuid
from typing import Any

import pytest

from aiworkspace.v1 import org_pb2 as pb
from aiworkspace.v1 import usage_pb2, workspace_pb2
from aiworkspace_server.auth.authority import ROLES
from tests.support.custom_roles import ALL, BILLING, CUSTOM, assign, make_role, restrict
from tests.support.orgs import get_org, invite, list_members, update_member, update_org
from tests.support.outcomes import NOT_FOUND, OK, PERMISSION_MISSING, named, outcome, refusal
from tests.support.people import Person, join, make_org, make_workspace
from tests.support.postgres import sql
from tests.support.service_accounts import insert_account
from tests.support.staff import ADMIN, MEMBER, OWNER, VIEWER, Team
from tests.support.stores import Stores


async def may(person: Person, org_id: str) -> dict[str, bool]:
    """Some things that take different permissions."""
    calls = {
        "org.read": get_org(person, org_id),
        "member.read": list_members(person, org_id),
        "org.update": update_org(person, org_id, name="Renamed"),
        "invitation.manage": person.orgs.ListInvitations(pb.ListInvitationsRequest(org_id=org_id)),
        "usage.read": person.usage.GetUsage(usage_pb2.GetUsageRequest(org_id=org_id)),
    }
    return {name: await outcome(call) == OK for name, call in calls.items()}


# Custom roles


async def test_a_member_with_a_custom_role_may_what_it_includes_and_nothing_else(team: Team) -> None:
    role_id = await restrict(team, team.member, "org.read", "usage.read")
    assert [name for name, allowed in (await may(team.member, team.org_id)).items() if allowed] == [
        "org.read",
        "usage.read",
    ]
    org = (await team.member.orgs.GetOrg(pb.GetOrgRequest(org_id=team.org_id))).org
    assert (org.role, org.custom_role_id) == (CUSTOM, role_id)
    found = (await team.owner.orgs.ListMembers(pb.ListMembersRequest(org_id=team.org_id))).members
    assert [(each.role, each.custom_role_id) for each in found if each.user_id == team.member.user_id] == [
        (CUSTOM, role_id)
    ]
    back = (await assign(team.owner, team.org_id, team.member, MEMBER)).member
    assert (back.role, back.custom_role_id) == (MEMBER, "")


@pytest.mark.parametrize("paths", [[], ["custom_role_id"], ["role"], ["role", "custom_role_id"]], ids=str)
async def test_a_custom_role_is_given_by_any_mask_that_names_it(paths: list[str], team: Team) -> None:
    role_id = await make_role(team.owner, team.org_id, "org.read")
    changed = (
        await update_member(team.owner, team.org_id, team.member, *paths, role=CUSTOM, custom_role_id=role_id)
    ).member
    assert (changed.role, changed.custom_role_id, changed.etag) == (CUSTOM, role_id, "2")


async def test_changing_from_one_custom_role_to_another_takes_its_id_alone(team: Team) -> None:
    await restrict(team, team.member, "org.read")
    second = await make_role(team.owner, team.org_id, "usage.read")
    changed = (await update_member(team.owner, team.org_id, team.member, custom_role_id=second)).member
    assert (changed.role, changed.custom_role_id) == (CUSTOM, second)


@pytest.mark.parametrize(
    ("paths", "role", "with_id"),
    [(["role"], CUSTOM, False), ([], CUSTOM, False), ([], MEMBER, True), (["custom_role_id"], 0, False)],
)
async def test_a_custom_role_and_its_id_come_together(paths: list[str], role: int, with_id: bool, team: Team) -> None:
    role_id = await make_role(team.owner, team.org_id, "org.read") if with_id else ""
    call = update_member(team.owner, team.org_id, team.viewer, *paths, role=role, custom_role_id=role_id)
    assert await named(call) == ("member.custom_role_id",)
    if role:
        assert await named(invite(team.owner, team.org_id, "somebody@example.com", role, role_id)) == (
            "custom_role_id",
        )


@pytest.mark.parametrize("act", ["update", "invite"])
async def test_foreign_custom_roles_are_as_unknown_as_random_ones(act: str, team: Team) -> None:
    foreign = await make_role(team.outsider, await make_org(team.outsider), "org.read")
    calls = [
        assign(team.owner, team.org_id, team.viewer, role_id=role_id)
        if act == "update"
        else invite(team.owner, team.org_id, "somebody@example.com", CUSTOM, role_id)
        for role_id in (foreign, str(uuid.uuid4()))
    ]
    one, other = [await refusal(call) for call in calls]
    assert one
    assert one == other
    assert one.code == "NOT_FOUND"


@pytest.mark.parametrize("act", ["update", "invite"])
async def test_nobody_gives_a_custom_role_that_includes_what_they_lack(act: str, team: Team) -> None:
    role_id = await make_role(team.owner, team.org_id, "org.read", "org.delete")

    def give(by: Person) -> Any:
        return (
            assign(by, team.org_id, team.viewer, role_id=role_id)
            if act == "update"
            else invite(by, team.org_id, "somebody@example.com", CUSTOM, role_id)
        )

    refused = await refusal(give(team.admin))
    assert refused
    assert (refused.reason, refused.metadata) == ("PERMISSION_MISSING", {"permission": "org.delete"})
    assert await outcome(give(team.owner)) == OK


async def test_nobody_takes_a_custom_role_that_includes_what_they_lack(team: Team) -> None:
    await restrict(team, team.member, "org.delete")
    assert await outcome(assign(team.admin, team.org_id, team.member, VIEWER)) == PERMISSION_MISSING
    remove = pb.RemoveMemberRequest(org_id=team.org_id, user_id=team.member.user_id)
    assert await outcome(team.admin.orgs.RemoveMember(remove)) == PERMISSION_MISSING


async def test_who_may_manage_members_alone_can_make_nobody_more(team: Team) -> None:
    role_id = await restrict(team, team.member, "member.manage")
    for role in (MEMBER, OWNER, BILLING):
        for person in (team.member, team.viewer, team.admin):
            assert await outcome(assign(team.member, team.org_id, person, role)) == PERMISSION_MISSING
    assert await outcome(assign(team.member, team.org_id, team.viewer, role_id=role_id)) == PERMISSION_MISSING


async def test_a_custom_role_that_includes_all_deletes_the_organization(team: Team) -> None:
    await restrict(team, team.member, "org.delete")
    assert await outcome(team.member.orgs.DeleteOrg(pb.DeleteOrgRequest(org_id=team.org_id))) == OK


# Billing


async def test_billing_reads_what_was_used_and_sees_no_workspace(team: Team, stores: Stores) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id)
    await join(team.owner, team.org_id, team.outsider, BILLING)
    allowed = [name for name, yes in (await may(team.outsider, team.org_id)).items() if yes]
    assert allowed == ["org.read", "member.read", "usage.read"]
    listing = workspace_pb2.ListWorkspacesRequest(org_id=team.org_id)
    reading = workspace_pb2.GetWorkspaceRequest(workspace_id=workspace_id)
    assert list((await team.outsider.workspaces.ListWorkspaces(listing)).workspaces) == []
    assert await outcome(team.outsider.workspaces.GetWorkspace(reading)) == NOT_FOUND
    assert await outcome(make_workspace(team.outsider, team.org_id)) == PERMISSION_MISSING
    await sql(
        stores,
        "INSERT INTO workspace_members (org_id, workspace_id, user_id, role, create_time)"
        " VALUES (%s, %s, %s, 'viewer', now())",
        *(team.org_id, workspace_id, team.outsider.user_id),
    )
    found = (await team.outsider.workspaces.ListWorkspaces(listing)).workspaces
    assert [each.workspace_id for each in found] == [workspace_id]
    assert await outcome(team.outsider.workspaces.GetWorkspace(reading)) == OK


# Service accounts


async def test_a_service_account_is_never_an_owner(team: Team, stranger: Person, stores: Stores) -> None:
    await insert_account(stores, team.org_id, "member", stranger, *ALL)
    assert await named(assign(team.owner, team.org_id, stranger, OWNER)) == ("member.role",)
    assert await outcome(assign(team.owner, team.org_id, stranger, ADMIN)) == OK


async def test_a_key_gives_no_role_beyond_its_scopes(team: Team, stranger: Person, stores: Stores) -> None:
    await insert_account(stores, team.org_id, "admin", stranger, "member.manage", *ROLES["viewer"])
    await restrict(team, team.member, "org.read")
    assert await outcome(assign(stranger, team.org_id, team.member, MEMBER)) == PERMISSION_MISSING
    assert await outcome(assign(stranger, team.org_id, team.member, VIEWER)) == OK
