"""ExplainAccess: which permission a call needs, whether the caller has it, and through what."""

from typing import Any

import pytest

from aiworkspace.v1 import access_pb2 as pb
from aiworkspace.v1 import workspace_pb2
from aiworkspace_server.kit.ids import new_id
from tests.support.custom_roles import restrict
from tests.support.outcomes import NOT_FOUND, named, outcome, refusal
from tests.support.people import Person, make_conversation, make_workspace
from tests.support.postgres import sql
from tests.support.service_accounts import insert_account
from tests.support.staff import Team
from tests.support.stores import Stores

MEMBERS_ONLY = workspace_pb2.WORKSPACE_VISIBILITY_MEMBERS


async def explain(by: Person, method: str, resource_id: str = "") -> pb.ExplainAccessResponse:
    request = pb.ExplainAccessRequest(method=method, resource_id=resource_id)
    response: pb.ExplainAccessResponse = await by.access.ExplainAccess(request)
    return response


def by_role(name: str) -> pb.Grant:
    return pb.Grant(source=pb.GRANT_SOURCE_ORG_ROLE, role=name)


async def put_into(stores: Stores, org_id: str, workspace_id: str, role: str, **member: str) -> None:
    """Makes a person (user_id) or team (team_id) a member of a workspace."""
    ((column, member_id),) = member.items()
    await sql(
        stores,
        f"INSERT INTO workspace_members (org_id, workspace_id, {column}, role, create_time)"
        " VALUES (%s, %s, %s, %s, now())",
        *(org_id, workspace_id, member_id, role),
    )


async def make_team_of(stores: Stores, org_id: str, *people: Person) -> str:
    team_id = str(new_id())
    await sql(stores, "INSERT INTO teams VALUES (%s, %s, 'Team', 1, now(), now())", org_id, team_id)
    for person in people:
        await sql(stores, "INSERT INTO team_members VALUES (%s, %s, %s, now())", org_id, team_id, person.user_id)
    return team_id


@pytest.mark.parametrize("who", ["viewer", "member", "admin", "owner"])
async def test_a_permission_comes_from_the_role_in_the_organization(who: str, team: Team) -> None:
    found = await explain(team.somebody(who), "OrgService/UpdateOrg", team.org_id)
    allowed = who in ("admin", "owner")
    assert (found.allowed, found.permission) == (allowed, "org.update")
    assert list(found.grants) == ([by_role(who)] if allowed else [])
    assert found.refusal == ("" if allowed else "You lack the permission org.update here.")


async def test_a_custom_role_is_called_by_its_name(team: Team) -> None:
    await restrict(team, team.member, "org.update")
    found = await explain(team.member, "OrgService/UpdateOrg", team.org_id)
    assert list(found.grants) == [by_role("Special")]
    assert not (await explain(team.member, "OrgService/GetOrg", team.org_id)).allowed


async def test_everything_that_gives_a_permission_is_named(team: Team, stores: Stores) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id)
    team_id = await make_team_of(stores, team.org_id, team.viewer)
    await put_into(stores, team.org_id, workspace_id, "editor", user_id=team.viewer.user_id)
    await put_into(stores, team.org_id, workspace_id, "manager", team_id=team_id)
    member = pb.Grant(source=pb.GRANT_SOURCE_WORKSPACE_MEMBER, role="editor")
    through_team = pb.Grant(source=pb.GRANT_SOURCE_TEAM, role="manager", team_id=team_id)

    async def grants(method: str) -> list[pb.Grant]:
        return sorted((await explain(team.viewer, method, workspace_id)).grants, key=lambda grant: grant.source)

    assert await grants("WorkspaceService/GetWorkspace") == [by_role("viewer"), member, through_team]
    assert await grants("WorkspaceService/UpdateWorkspace") == [member, through_team]
    assert await grants("WorkspaceService/DeleteWorkspace") == [through_team]


async def test_in_a_workspace_for_members_only_the_role_in_the_organization_counts_for_nothing(
    team: Team, stores: Stores
) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id, visibility=MEMBERS_ONLY)
    assert await outcome(explain(team.member, "WorkspaceService/GetWorkspace", workspace_id)) == NOT_FOUND
    await put_into(stores, team.org_id, workspace_id, "viewer", user_id=team.member.user_id)
    found = await explain(team.member, "WorkspaceService/GetWorkspace", workspace_id)
    assert list(found.grants) == [pb.Grant(source=pb.GRANT_SOURCE_WORKSPACE_MEMBER, role="viewer")]
    assert not (await explain(team.member, "WorkspaceService/UpdateWorkspace", workspace_id)).allowed
    administered = await explain(team.admin, "WorkspaceService/DeleteWorkspace", workspace_id)
    assert list(administered.grants) == [by_role("admin")]


async def test_a_conversation_is_ones_own_to_ask_about(team: Team) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id)
    conversation_id = await make_conversation(team.member, workspace_id)
    assert (await explain(team.member, "ChatService/SendMessage", conversation_id)).allowed
    assert await outcome(explain(team.owner, "ChatService/SendMessage", conversation_id)) == NOT_FOUND


async def test_what_one_may_not_know_of_is_not_found(team: Team) -> None:
    unknown = [
        await refusal(explain(by, "OrgService/GetOrg", resource_id))
        for by, resource_id in (
            (team.outsider, team.org_id),
            (team.outsider, str(new_id())),
            (team.owner, str(new_id())),
        )
    ]
    assert unknown[0]
    assert unknown[0].code == "NOT_FOUND"
    assert len({each and each.status for each in unknown}) == 1


async def test_a_permission_given_a_moment_ago_is_known(team: Team) -> None:
    assert not (await explain(team.viewer, "OrgService/UpdateOrg", team.org_id)).allowed
    await restrict(team, team.viewer, "org.update")
    assert (await explain(team.viewer, "OrgService/UpdateOrg", team.org_id)).allowed


async def test_what_one_may_do_to_oneself_is_said(team: Team) -> None:
    found = await explain(team.viewer, "OrgService/RemoveMember", team.org_id)
    assert not found.allowed
    assert found.refusal == "You lack the permission member.manage here. You may do this to yourself."


@pytest.mark.parametrize("method", ["AuthService/Login", "OrgService/ListOrgs", "OrgService/CreateOrg"])
async def test_a_method_without_permission_allows_itself(method: str, team: Team) -> None:
    found = await explain(team.outsider, method)
    assert (found.allowed, found.permission, found.refusal) == (True, "", "")
    assert list(found.grants) == [pb.Grant(source=pb.GRANT_SOURCE_METHOD)]


async def test_a_key_is_told_what_it_lacks(team: Team, stranger: Person, stores: Stores) -> None:
    await insert_account(stores, team.org_id, "member", stranger, "org.read", "org.update")
    assert (await explain(stranger, "OrgService/GetOrg", team.org_id)).allowed
    missing = await explain(stranger, "WorkspaceService/CreateWorkspace", team.org_id)
    assert list(missing.grants) == [by_role("member")]
    assert missing.refusal == "The permission workspace.create is not among the scopes of this API key."
    beyond = await explain(stranger, "OrgService/UpdateOrg", team.org_id)
    assert (beyond.allowed, list(beyond.grants)) == (False, []), "a key does no more than its account"
    leaving = await explain(stranger, "OrgService/RemoveMember", team.org_id)
    assert leaving.refusal == "You lack the permission member.manage here."
    session = await explain(stranger, "OrgService/CreateOrg")
    assert (session.allowed, list(session.grants)) == (False, [])
    assert session.refusal == "This method needs a session: API keys may not call it."


SPELLINGS = [
    "OrgService/GetOrg",
    "aiworkspace.v1.OrgService/GetOrg",
    "/aiworkspace.v1.OrgService/GetOrg",
    "/OrgService/GetOrg",
]


@pytest.mark.parametrize("method", SPELLINGS)
async def test_a_method_may_be_named_by_its_path(method: str, team: Team) -> None:
    assert (await explain(team.viewer, method, team.org_id)).allowed


def asked(team: Team, method: str, resource_id: str) -> Any:
    return explain(team.owner, method, team.org_id if resource_id == "org" else resource_id)


@pytest.mark.parametrize(
    ("method", "resource_id", "field"),
    [
        ("OrgService/Nothing", "org", "method"),
        ("OrgService.GetOrg", "org", "method"),
        ("//aiworkspace.v1.OrgService/GetOrg", "org", "method"),
        ("grpc.health.v1.Health/Check", "", "method"),
        ("", "org", "method"),
        ("x" * 201, "org", "method"),
        ("OrgService/GetOrg", "", "resource_id"),
        ("OrgService/GetOrg", "1", "resource_id"),
        ("OrgService/ListOrgs", "org", "resource_id"),
        ("AuthService/Login", "org", "resource_id"),
    ],
)
async def test_a_question_without_sense_is_refused_by_name(
    method: str, resource_id: str, field: str, team: Team
) -> None:
    assert await named(asked(team, method, resource_id)) == (field,)
