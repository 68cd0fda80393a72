"""aiws roles, aiws explain, and what aiws orgs does with members."""

import json
from typing import Any

import pytest

from aiworkspace.v1 import access_pb2, org_pb2, service_account_pb2
from tests.client.conftest import Aiws
from tests.client.scripted import ScriptedServer, answer

READER = access_pb2.CustomRole(
    org_id="org-1", custom_role_id="role-1", name="Reader", permissions=["chat.read", "org.read"]
)
MARIE = org_pb2.Member(
    org_id="org-1",
    user_id="user-2",
    email="m@example.com",
    display_name="Marie",
    role=org_pb2.ROLE_ADMIN,
    email_verified=True,
)

pytestmark = pytest.mark.usefixtures("signed_in")


async def test_a_role_from_its_making_to_its_end(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("AccessService.CreateCustomRole", answer(access_pb2.CreateCustomRoleResponse(role=READER)))
    server.script("AccessService.UpdateCustomRole", answer(access_pb2.UpdateCustomRoleResponse(role=READER)))
    server.script("AccessService.DeleteCustomRole", answer(access_pb2.DeleteCustomRoleResponse()))
    assert (await aiws("roles", "create", "Reader", "-p", "org.read", "-p", "chat.read")).stdout == "role-1\n"
    asked = server.calls[-1].request
    assert (asked.org_id, asked.name, list(asked.permissions)) == ("org-1", "Reader", ["org.read", "chat.read"])
    ran = await aiws("roles", "update", "role-1", "--permission", "chat.read")
    assert ran.stderr == "The role Reader allows chat.read org.read.\n"
    changed = access_pb2.CustomRole(org_id="org-1", custom_role_id="role-1", permissions=["chat.read"])
    assert server.calls[-1].request.role == changed
    assert (await aiws("roles", "update", "role-1")).returncode == 2
    assert (await aiws("roles", "delete", "role-1", stdin="n\n")).returncode == 1
    assert not server.called("AccessService.DeleteCustomRole")
    assert (await aiws("roles", "delete", "role-1", "-y")).returncode == 0
    expected = access_pb2.DeleteCustomRoleRequest(org_id="org-1", custom_role_id="role-1")
    assert server.calls[-1].request == expected


async def test_roles_are_listed(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("AccessService.ListCustomRoles", answer(access_pb2.ListCustomRolesResponse(roles=[READER])))
    table = (await aiws("roles", "list")).stdout.splitlines()
    assert [line.split() for line in table] == [
        ["ROLE", "NAME", "PERMISSIONS"],
        ["role-1", "Reader", "chat.read", "org.read"],
    ]
    assert json.loads((await aiws("roles", "list", "--json")).stdout)[0]["permissions"] == ["chat.read", "org.read"]


async def test_an_explanation_names_what_gives_the_permission(server: ScriptedServer, aiws: Aiws) -> None:
    grants = [
        access_pb2.Grant(source=access_pb2.GRANT_SOURCE_ORG_ROLE, role="Reader"),
        access_pb2.Grant(source=access_pb2.GRANT_SOURCE_WORKSPACE_MEMBER, role="editor"),
        access_pb2.Grant(source=access_pb2.GRANT_SOURCE_TEAM, role="manager", team_id="team-1"),
    ]
    found = access_pb2.ExplainAccessResponse(allowed=True, permission="workspace.update", grants=grants)
    server.script("AccessService.ExplainAccess", answer(found))
    ran = await aiws("explain", "WorkspaceService/UpdateWorkspace", "workspace-1")
    assert [line.split() for line in ran.stdout.splitlines()] == [
        ["allowed", "yes"],
        ["needs", "workspace.update"],
        ["given", "by", "Reader", "of", "the", "organization"],
        ["given", "by", "editor", "of", "the", "workspace"],
        ["given", "by", "manager", "of", "the", "workspace,", "through", "the", "team", "team-1"],
    ]
    expected = access_pb2.ExplainAccessRequest(method="WorkspaceService/UpdateWorkspace", resource_id="workspace-1")
    assert server.calls[-1].request == expected


async def test_an_explanation_says_why_not(server: ScriptedServer, aiws: Aiws) -> None:
    found = access_pb2.ExplainAccessResponse(permission="org.update", refusal="You lack it.")
    server.script("AccessService.ExplainAccess", answer(found))
    lines = (await aiws("explain", "OrgService/UpdateOrg", "org-1")).stdout.splitlines()
    assert [line.split(maxsplit=1)[0] for line in lines] == ["allowed", "needs", "why"]
    assert lines[2].endswith("You lack it.")
    method = access_pb2.ExplainAccessResponse(
        allowed=True, grants=[access_pb2.Grant(source=access_pb2.GRANT_SOURCE_METHOD)]
    )
    server.script("AccessService.ExplainAccess", answer(method))
    ran = await aiws("explain", "OrgService/ListOrgs")
    assert " ".join(ran.stdout.split()) == "allowed yes needs no permission"


async def test_what_is_done_to_members(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("OrgService.UpdateMember", answer(org_pb2.UpdateMemberResponse(member=MARIE)))
    server.script("OrgService.SuspendMember", answer(org_pb2.SuspendMemberResponse(member=MARIE)))
    server.script("OrgService.ReinstateMember", answer(org_pb2.ReinstateMemberResponse(member=MARIE)))
    server.script("OrgService.RemoveMember", answer(org_pb2.RemoveMemberResponse()))
    whom: dict[str, Any] = {"org_id": "org-1", "user_id": "user-2"}
    assert (await aiws("orgs", "set-role", "user-2", "admin")).stderr == "Marie is now admin.\n"
    assert server.calls[-1].request.member == org_pb2.Member(**whom, role=org_pb2.ROLE_ADMIN)
    assert list(server.calls[-1].request.update_mask.paths) == ["role", "custom_role_id"]
    assert (await aiws("orgs", "set-role", "user-2", "custom:role-1")).returncode == 0
    member = org_pb2.Member(**whom, role=org_pb2.ROLE_CUSTOM, custom_role_id="role-1")
    assert server.calls[-1].request.member == member
    suspended = org_pb2.SuspendMemberResponse(member=MARIE, revoked_api_key_ids=["key-1"], kept_api_key_ids=["key-2"])
    server.script("OrgService.SuspendMember", answer(suspended))
    said = "Marie is suspended.\nThe key key-1, which the member created, was revoked.\n"
    said += "The key key-2, which the member created, remains valid.\n"
    assert (await aiws("orgs", "suspend", "user-2")).stderr == said
    assert server.calls[-1].request == org_pb2.SuspendMemberRequest(**whom)
    assert (await aiws("orgs", "reinstate", "user-2", "--org", "org-2")).stderr == "Marie is reinstated.\n"
    assert server.calls[-1].request == org_pb2.ReinstateMemberRequest(org_id="org-2", user_id="user-2")
    assert (await aiws("orgs", "remove", "user-2", stdin="n\n")).returncode == 1
    assert not server.called("OrgService.RemoveMember")
    assert (await aiws("orgs", "remove", "user-2", "--yes")).returncode == 0
    assert server.calls[-1].request == org_pb2.RemoveMemberRequest(**whom)


async def test_members_are_listed_with_their_own_roles_and_whether_they_are_suspended(
    server: ScriptedServer, aiws: Aiws
) -> None:
    suspended = org_pb2.Member(
        user_id="user-3",
        email="c@example.com",
        display_name="Curie",
        role=org_pb2.ROLE_CUSTOM,
        custom_role_id="role-1",
        state=org_pb2.MEMBER_STATE_SUSPENDED,
    )
    server.script("OrgService.ListMembers", answer(org_pb2.ListMembersResponse(members=[MARIE, suspended])))
    table = [line.split() for line in (await aiws("orgs", "members")).stdout.splitlines()]
    assert table[1:] == [
        ["user-2", "m@example.com", "Marie", "admin"],
        ["user-3", "c@example.com", "Curie", "custom:role-1", "suspended,", "address", "not", "verified"],
    ]


@pytest.mark.parametrize(
    ("typed", "role", "custom_role_id"),
    [
        ("billing", org_pb2.ROLE_BILLING, ""),
        ("Owner", org_pb2.ROLE_OWNER, ""),
        ("custom:r-1", org_pb2.ROLE_CUSTOM, "r-1"),
    ],
)
async def test_every_role_is_typed_in_the_same_way(
    typed: str, role: org_pb2.Role.ValueType, custom_role_id: str, server: ScriptedServer, aiws: Aiws
) -> None:
    server.script("OrgService.CreateInvitation", answer(org_pb2.CreateInvitationResponse()))
    made = service_account_pb2.CreateServiceAccountResponse()
    server.script("ServiceAccountService.CreateServiceAccount", answer(made))
    for command in (("orgs", "invite", "a@example.com"), ("service-accounts", "create", "Reporter")):
        assert (await aiws(*command, "--role", typed)).returncode == 0
        asked = server.calls[-1].request
        assert (asked.role, asked.custom_role_id) == (role, custom_role_id)


@pytest.mark.parametrize("typed", ["king", "custom", "custom:", "member:role-1", "", "unspecified"])
async def test_what_is_no_role_is_wrong_usage(typed: str, server: ScriptedServer, aiws: Aiws) -> None:
    before = len(server.calls)
    ran = await aiws("orgs", "set-role", "user-2", typed)
    assert (ran.returncode, "custom:ID" in ran.stderr) == (2, True)
    assert len(server.calls) == before
