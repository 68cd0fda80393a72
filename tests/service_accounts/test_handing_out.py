"""Nobody puts into a key what they lack: not in the organization, not in a workspace, not by way of another key."""

import asyncio
import uuid
from collections.abc import Iterable
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2, status_pb2

from aiworkspace.v1 import org_pb2, workspace_pb2
from aiworkspace.v1 import service_account_pb2 as pb
from tests.support.outcomes import OK, UNAUTHENTICATED, named, outcome, refusal
from tests.support.people import Person, make_org, make_workspace
from tests.support.postgres import as_owner, sql, until_blocked
from tests.support.service_accounts import (
    EVERY,
    OF_WORKSPACES,
    NewBackend,
    make_account,
    make_custom_role,
    make_key,
    rotate_key,
)
from tests.support.staff import ADMIN, Team
from tests.support.stores import Stores

MANAGE = "service_account.manage"
MEMBERS = workspace_pb2.WORKSPACE_VISIBILITY_MEMBERS


async def missing(call: Any) -> str:
    """The permission that the refusal names, empty when the call was not refused for one."""
    refused = await refusal(call)
    if refused is None or refused.reason != "PERMISSION_MISSING":
        return ""
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(refused.status).details[0].Unpack(info)
    return str(info.metadata["permission"])


async def give_role(team: Team, stores: Stores, person: Person | str, permissions: Iterable[str]) -> None:
    """Gives a custom role with these permissions."""
    role_id = await make_custom_role(stores, team.org_id, permissions)
    user_id = person if isinstance(person, str) else person.user_id
    member = org_pb2.Member(org_id=team.org_id, user_id=user_id, role=org_pb2.ROLE_CUSTOM, custom_role_id=role_id)
    request = org_pb2.UpdateMemberRequest(member=member, update_mask=FieldMask(paths=["role", "custom_role_id"]))
    await team.owner.orgs.UpdateMember(request)


async def put_into(stores: Stores, org_id: str, workspace_id: str, user_id: str, role: str) -> None:
    columns = "org_id, workspace_id, user_id, role, create_time"
    await sql(
        stores,
        f"INSERT INTO workspace_members ({columns}) VALUES (%s, %s, %s, %s, now())",
        *(org_id, workspace_id, user_id, role),
    )


async def test_not_what_the_makers_role_lacks(team: Team) -> None:
    user_id = await make_account(team.owner, team.org_id)
    assert await missing(make_key(team.admin, team.org_id, user_id, ["chat.read", "org.delete"])) == "org.delete"
    made = await make_key(team.owner, team.org_id, user_id, EVERY)
    assert (
        await missing(rotate_key(team.admin, made.api_key)) == "data.manage"
    )  # the first of those that only owners have
    assert await outcome(rotate_key(team.owner, made.api_key)) == OK


async def test_not_what_the_maker_lost_a_moment_ago(team: Team, stores: Stores) -> None:
    user_id = await make_account(team.owner, team.org_id)
    await make_key(team.admin, team.org_id, user_id, ["audit.read"])
    role_id = await make_custom_role(stores, team.org_id, [MANAGE, "org.read"])
    change = "UPDATE memberships SET role = 'custom', custom_role_id = %s WHERE org_id = %s AND user_id = %s"
    await sql(stores, change, role_id, team.org_id, team.admin.user_id)  # no process is told
    assert await missing(make_key(team.admin, team.org_id, user_id, ["audit.read"])) == "audit.read"


async def test_a_key_hands_out_no_more_than_it_has(team: Team, new_backend: NewBackend) -> None:
    user_id = await make_account(team.owner, team.org_id)
    made = await make_key(team.owner, team.org_id, user_id, [MANAGE, "chat.read"])
    backend = new_backend(made.secret)
    assert await missing(make_key(backend, team.org_id, user_id, ["chat.read", "chat.send"])) == "chat.send"
    other = await make_key(team.owner, team.org_id, user_id, ["chat.send"])
    assert await missing(rotate_key(backend, other.api_key)) == "chat.send"
    child = await make_key(backend, team.org_id, await make_account(team.owner, team.org_id, role=3), [MANAGE])
    assert child.api_key.creator_id == user_id


async def test_a_limited_key_has_nothing_to_do_with_keys(team: Team, new_backend: NewBackend) -> None:
    user_id, workspace_id = await make_account(team.owner, team.org_id), await make_workspace(team.owner, team.org_id)
    limited = {"workspace_ids": [workspace_id]}
    for permission in EVERY:
        asked = make_key(team.owner, team.org_id, user_id, ["chat.read", permission, "org.read"][:2], **limited)
        expected = () if permission in (*OF_WORKSPACES, "org.read") else ("permissions[1]",)
        assert permission == "chat.read" or await named(asked) == expected
        if permission == "chat.read":
            asked.close()
    made = await make_key(team.owner, team.org_id, user_id, [*OF_WORKSPACES, "org.read"], **limited)
    backend = new_backend(made.secret)
    assert await missing(make_key(backend, team.org_id, user_id, ["chat.read"], **limited)) == MANAGE
    assert await missing(rotate_key(backend, made.api_key)) == MANAGE


async def test_workspaces_that_the_maker_may_not_see_are_not_found(
    team: Team, staff: dict[str, Person], stores: Stores
) -> None:
    user_id = await make_account(team.owner, team.org_id)
    await give_role(team, stores, team.member, [MANAGE, "org.read", "workspace.read", "chat.read"])
    seen = await make_workspace(team.owner, team.org_id)
    hidden = await make_workspace(team.owner, team.org_id, visibility=MEMBERS)
    foreign = await make_workspace(staff["outsider"], await make_org(staff["outsider"]))
    deleted = await make_workspace(team.owner, team.org_id)
    await team.owner.workspaces.DeleteWorkspace(workspace_pb2.DeleteWorkspaceRequest(workspace_id=deleted))
    refused = {
        await refusal(make_key(team.member, team.org_id, user_id, ["chat.read"], workspace_ids=[seen, each]))
        for each in (hidden, foreign, deleted, str(uuid.uuid4()))
    }
    assert [each.code if each else OK for each in refused] == ["NOT_FOUND"]
    assert await outcome(make_key(team.member, team.org_id, user_id, ["chat.read"], workspace_ids=[seen])) == OK


async def test_a_workspace_of_another_organization_of_the_maker_is_not_found(team: Team) -> None:
    user_id = await make_account(team.owner, team.org_id)
    elsewhere = await make_workspace(team.owner, await make_org(team.owner))
    refused = {
        await refusal(make_key(team.owner, team.org_id, user_id, ["chat.read"], workspace_ids=[each]))
        for each in (elsewhere, str(uuid.uuid4()))
    }
    assert [each.code if each else OK for each in refused] == ["NOT_FOUND"]


async def test_in_each_workspace_the_maker_holds_what_the_key_gets(team: Team, stores: Stores) -> None:
    user_id = await make_account(team.owner, team.org_id)
    await give_role(team, stores, team.member, [MANAGE, "org.read"])
    managed, read = [await make_workspace(team.owner, team.org_id, visibility=MEMBERS) for _ in range(2)]
    await put_into(stores, team.org_id, managed, team.member.user_id, "manager")
    await put_into(stores, team.org_id, read, team.member.user_id, "viewer")

    def asked(permissions: list[str], *workspace_ids: str) -> Any:
        return make_key(team.member, team.org_id, user_id, permissions, workspace_ids=workspace_ids)

    assert await outcome(asked(["chat.send", "workspace.share", "org.read"], managed)) == OK
    assert await outcome(asked(["chat.read"], managed, read)) == OK
    assert await missing(asked(["chat.send"], managed, read)) == "chat.send"
    assert await missing(make_key(team.member, team.org_id, user_id, ["chat.read"])) == "chat.read"
    made = await make_key(team.owner, team.org_id, user_id, ["chat.send"], workspace_ids=[managed, read])
    assert await missing(rotate_key(team.member, made.api_key)) == "chat.send"


async def test_an_unlimited_key_opens_no_workspace_that_is_closed_to_its_maker(team: Team, stores: Stores) -> None:
    """Through the account's own place in a workspace, or its role over all of them."""
    await give_role(team, stores, team.member, [MANAGE, "org.read", "workspace.read", "chat.read"])
    inside = await make_account(team.owner, team.org_id, role=org_pb2.ROLE_VIEWER)
    outside = await make_account(team.owner, team.org_id, role=org_pb2.ROLE_VIEWER)
    above = await make_account(team.owner, team.org_id, role=ADMIN)
    hidden = await make_workspace(team.owner, team.org_id, visibility=MEMBERS)
    await put_into(stores, team.org_id, hidden, inside, "viewer")
    assert await outcome(make_key(team.member, team.org_id, outside, ["chat.read"])) == OK
    assert await missing(make_key(team.member, team.org_id, inside, ["chat.read"])) == "chat.read"
    assert await missing(make_key(team.member, team.org_id, above, ["chat.read"])) == "workspace.administer"
    assert await outcome(make_key(team.member, team.org_id, above, ["org.read"])) == OK
    made = await make_key(team.owner, team.org_id, inside, ["chat.read"])
    assert await missing(rotate_key(team.member, made.api_key)) == "chat.read"
    await put_into(stores, team.org_id, hidden, team.member.user_id, "viewer")
    assert await outcome(make_key(team.member, team.org_id, inside, ["chat.read"])) == OK


async def test_a_deleted_workspace_does_not_keep_a_key_from_being_rotated(team: Team, new_backend: NewBackend) -> None:
    user_id = await make_account(team.owner, team.org_id)
    gone, left, other = [await make_workspace(team.owner, team.org_id) for _ in range(3)]
    made = await make_key(team.owner, team.org_id, user_id, ["workspace.read", "org.read"], workspace_ids=[gone, left])
    await team.owner.workspaces.DeleteWorkspace(workspace_pb2.DeleteWorkspaceRequest(workspace_id=gone))
    backend = new_backend((await rotate_key(team.admin, made.api_key)).secret)
    request = workspace_pb2.ListWorkspacesRequest(org_id=team.org_id)
    assert [each.workspace_id for each in (await backend.workspaces.ListWorkspaces(request)).workspaces] == [left]
    last = workspace_pb2.DeleteWorkspaceRequest(workspace_id=left)
    await team.owner.workspaces.DeleteWorkspace(last)
    assert (await backend.workspaces.ListWorkspaces(request)).workspaces == []
    assert await outcome(backend.workspaces.GetWorkspace(workspace_pb2.GetWorkspaceRequest(workspace_id=other))) != OK


async def test_one_workspace_written_in_two_ways_is_one(team: Team) -> None:
    user_id, workspace_id = await make_account(team.owner, team.org_id), await make_workspace(team.owner, team.org_id)
    both = [workspace_id, workspace_id.upper()]
    made = await make_key(team.owner, team.org_id, user_id, ["chat.read"], workspace_ids=both)
    assert list(made.api_key.workspace_ids) == [workspace_id]


@pytest.mark.parametrize("ended", ["revoke_time", "expire_time"])
async def test_a_key_that_ended_while_its_call_waited_leaves_no_other_key(
    team: Team, new_backend: NewBackend, stores: Stores, ended: str
) -> None:
    user_id = await make_account(team.owner, team.org_id)
    made = await make_key(team.owner, team.org_id, user_id, [MANAGE, "chat.read"])
    backend = new_backend(made.secret)
    assert await outcome(make_key(backend, team.org_id, user_id, ["chat.read"])) == OK  # it is remembered now
    async with as_owner(stores) as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM orgs WHERE id = %s FOR UPDATE", (team.org_id,))
        late = [
            asyncio.create_task(outcome(make_key(backend, team.org_id, user_id, ["chat.read"]))),
            asyncio.create_task(outcome(rotate_key(backend, made.api_key))),
        ]
        await until_blocked(stores, *late)
        change = f"UPDATE api_keys SET {ended} = now() WHERE id = %s"
        await connection.execute(change.encode(), (made.api_key.api_key_id,))
    assert await asyncio.gather(*late) == [UNAUTHENTICATED] * 2
    listed = await team.owner.service_accounts.ListApiKeys(pb.ListApiKeysRequest(org_id=team.org_id))
    assert len(listed.api_keys) == 2


@pytest.mark.parametrize("ended", ["revoke_time", "expire_time"])
async def test_a_key_that_ended_while_its_call_waited_does_nothing_else(
    team: Team, new_backend: NewBackend, stores: Stores, ended: str
) -> None:
    """What it did would not be among what was revoked with it."""
    user_id, workspace_id = await make_account(team.owner, team.org_id), await make_workspace(team.owner, team.org_id)
    made = await make_key(team.owner, team.org_id, user_id)
    backend, org_id = new_backend(made.secret), team.org_id
    member = org_pb2.Member(org_id=org_id, user_id=team.member.user_id, role=org_pb2.ROLE_ADMIN)
    async with as_owner(stores) as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM orgs WHERE id = %s FOR UPDATE", (team.org_id,))
        late = [
            asyncio.create_task(outcome(call))
            for call in (
                backend.orgs.CreateInvitation(
                    org_pb2.CreateInvitationRequest(org_id=org_id, email="i@example.com", role=org_pb2.ROLE_ADMIN)
                ),
                backend.orgs.UpdateMember(org_pb2.UpdateMemberRequest(member=member)),
                backend.orgs.UpdateOrg(org_pb2.UpdateOrgRequest(org=org_pb2.Org(org_id=org_id, name="Another"))),
                backend.workspaces.DeleteWorkspace(workspace_pb2.DeleteWorkspaceRequest(workspace_id=workspace_id)),
                make_account(backend, org_id),
            )
        ]
        await until_blocked(stores, *late)
        change = f"UPDATE api_keys SET {ended} = now() WHERE id = %s"
        await connection.execute(change.encode(), (made.api_key.api_key_id,))
    assert await asyncio.gather(*late) == [UNAUTHENTICATED] * 5


async def test_a_maker_who_was_suspended_while_the_call_waited_makes_none(team: Team, stores: Stores) -> None:
    user_id = await make_account(team.owner, team.org_id)
    async with as_owner(stores) as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM orgs WHERE id = %s FOR UPDATE", (team.org_id,))
        late = asyncio.create_task(outcome(make_key(team.admin, team.org_id, user_id, ["chat.read"])))
        await until_blocked(stores, late)
        change = "UPDATE memberships SET suspend_time = now() WHERE org_id = %s AND user_id = %s"
        await connection.execute(change, (team.org_id, team.admin.user_id))
    assert (await late).startswith("NOT_FOUND")
