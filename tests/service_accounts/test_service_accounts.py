"""Service accounts: who makes and deletes them, and what is left of them."""

import uuid
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from aiworkspace.v1 import auth_pb2, chat_pb2, org_pb2, usage_pb2
from aiworkspace.v1 import service_account_pb2 as pb
from tests.standin import Standin
from tests.support.outcomes import (
    INVALID,
    INVITATION_CLOSED,
    NOT_FOUND,
    OK,
    PERMISSION_MISSING,
    REQUEST_ID_REUSED,
    UNAUTHENTICATED,
    named,
    outcome,
    outcomes,
    refusal,
)
from tests.support.pagination import read_all
from tests.support.people import Person, join, make_conversation, make_org, make_workspace
from tests.support.runs import OPENAI, say, talk
from tests.support.service_accounts import EVERY, NewBackend, make_account, make_custom_role, make_key
from tests.support.staff import ADMIN, OWNER, VIEWER, Team
from tests.support.stores import Stores


def creation(team: Team, **fields: Any) -> pb.CreateServiceAccountRequest:
    asked: dict[str, Any] = {"org_id": team.org_id, "name": "Robot", "role": VIEWER}
    return pb.CreateServiceAccountRequest(**asked | fields)


def deletion(team: Team, user_id: str) -> pb.DeleteServiceAccountRequest:
    return pb.DeleteServiceAccountRequest(org_id=team.org_id, user_id=user_id)


async def listed(person: Person, org_id: str, size: int = 50) -> list[pb.ServiceAccount]:
    request = pb.ListServiceAccountsRequest(org_id=org_id)
    return await read_all(person.service_accounts.ListServiceAccounts, request, "service_accounts", size)


async def test_a_service_account_is_a_member_without_an_address(team: Team) -> None:
    made = (await team.admin.service_accounts.CreateServiceAccount(creation(team))).service_account
    assert (made.org_id, made.name, made.role, made.state) == (
        team.org_id,
        "Robot",
        VIEWER,
        org_pb2.MEMBER_STATE_ACTIVE,
    )
    assert await listed(team.admin, team.org_id) == [made]
    members = (await team.owner.orgs.ListMembers(org_pb2.ListMembersRequest(org_id=team.org_id))).members
    member = next(member for member in members if member.user_id == made.user_id)
    assert (member.email, member.display_name) == ("", "Robot")
    assert (member.kind, member.role) == (org_pb2.MEMBER_KIND_SERVICE_ACCOUNT, VIEWER)


@pytest.mark.parametrize("role", ["member", "viewer", "outsider"])
async def test_only_owners_and_admins_have_them(team: Team, role: str) -> None:
    person, user_id = team.somebody(role), await make_account(team.owner, team.org_id)
    found = {
        await outcome(person.service_accounts.CreateServiceAccount(creation(team))),
        await outcome(listed(person, team.org_id)),
        await outcome(person.service_accounts.DeleteServiceAccount(deletion(team, user_id))),
    }
    assert found == {NOT_FOUND if role == "outsider" else PERMISSION_MISSING}
    assert [account.user_id for account in await listed(team.owner, team.org_id)] == [user_id]


async def test_none_is_ever_an_owner(team: Team) -> None:
    call = team.owner.service_accounts.CreateServiceAccount
    assert await named(call(creation(team, role=OWNER))) == ("role",)
    user_id = await make_account(team.owner, team.org_id)
    member = org_pb2.Member(org_id=team.org_id, user_id=user_id, role=OWNER)
    request = org_pb2.UpdateMemberRequest(member=member, update_mask=FieldMask(paths=["role"]))
    assert await named(team.owner.orgs.UpdateMember(request)) == ("member.role",)


async def test_nobody_gives_a_role_that_includes_what_they_lack(team: Team, stores: Stores) -> None:
    beyond = await make_custom_role(stores, team.org_id, ["org.read", "org.delete"])
    request = creation(team, role=org_pb2.ROLE_CUSTOM, custom_role_id=beyond)
    assert await outcome(team.admin.service_accounts.CreateServiceAccount(request)) == PERMISSION_MISSING
    made = (await team.owner.service_accounts.CreateServiceAccount(request)).service_account
    assert (made.role, made.custom_role_id) == (org_pb2.ROLE_CUSTOM, beyond)
    unwanted = deletion(team, made.user_id)
    assert await outcome(team.admin.service_accounts.DeleteServiceAccount(unwanted)) == PERMISSION_MISSING
    await team.owner.service_accounts.DeleteServiceAccount(unwanted)


async def test_an_unknown_custom_role_is_not_found(team: Team, staff: dict[str, Person], stores: Stores) -> None:
    foreign = await make_custom_role(stores, await make_org(staff["outsider"]), ["org.read"])
    call = team.owner.service_accounts.CreateServiceAccount
    unknown = [creation(team, role=org_pb2.ROLE_CUSTOM, custom_role_id=each) for each in (foreign, str(uuid.uuid4()))]
    refused = {await refusal(call(request)) for request in unknown}
    assert len(refused) == 1
    assert await outcome(call(unknown[0])) == NOT_FOUND
    assert await named(call(creation(team, role=org_pb2.ROLE_CUSTOM))) == ("custom_role_id",)
    assert await named(call(creation(team, custom_role_id=foreign))) == ("custom_role_id",)


@pytest.mark.parametrize("fields", [{"name": ""}, {"name": "n" * 101}, {"name": "a\0b"}, {"role": 0}, {"role": 99}])
async def test_wrong_input_is_named(team: Team, fields: dict[str, Any]) -> None:
    request = creation(team, **fields)
    assert await named(team.owner.service_accounts.CreateServiceAccount(request)) == tuple(fields)


async def test_fifty_repeats_make_one_account(team: Team) -> None:
    request = creation(team, request_id=str(uuid.uuid4()))
    call = team.owner.service_accounts.CreateServiceAccount
    assert await outcomes(call(request) for _ in range(50)) == {OK: 50}
    assert len(await listed(team.owner, team.org_id)) == 1
    request.name = "Another"
    assert await outcome(call(request)) == REQUEST_ID_REUSED


async def test_pages_add_up_to_the_whole_the_oldest_first(team: Team) -> None:
    made = [await make_account(team.owner, team.org_id) for _ in range(5)]
    for size in (1, 2, 5, 50):
        assert [account.user_id for account in await listed(team.admin, team.org_id, size)] == made


async def test_only_a_service_account_of_the_organization_can_be_deleted(team: Team, staff: dict[str, Person]) -> None:
    foreign = await make_account(staff["outsider"], await make_org(staff["outsider"]))
    nobody = [team.member.user_id, team.owner.user_id, foreign, str(uuid.uuid4())]
    call = team.owner.service_accounts.DeleteServiceAccount
    refused = {await refusal(call(deletion(team, user_id))) for user_id in nobody}
    assert len(refused) == 1, "the refusals differ"
    assert await outcome(call(deletion(team, nobody[0]))) == NOT_FOUND
    members = (await team.owner.orgs.ListMembers(org_pb2.ListMembersRequest(org_id=team.org_id))).members
    assert len(members) == 4


async def test_what_a_deleted_account_said_and_spent_stays(team: Team, new_backend: NewBackend) -> None:
    user_id = await make_account(team.owner, team.org_id)
    backend = new_backend((await make_key(team.owner, team.org_id, user_id)).secret)
    workspace_id = await make_workspace(team.owner, team.org_id)
    await say(backend, await make_conversation(backend, workspace_id), "hello")
    invitation = org_pb2.CreateInvitationRequest(org_id=team.org_id, email=team.outsider.email, role=VIEWER)
    invited = await backend.orgs.CreateInvitation(invitation)
    await team.admin.service_accounts.DeleteServiceAccount(deletion(team, user_id))
    assert await listed(team.owner, team.org_id) == []
    assert await outcome(backend.auth.GetMe(auth_pb2.GetMeRequest())) == UNAUTHENTICATED
    entries = usage_pb2.ListUsageEntriesRequest(org_id=team.org_id, user_id=user_id)
    assert len((await team.owner.usage.ListUsageEntries(entries)).entries) == 1
    accepting = org_pb2.AcceptInvitationRequest(token=invited.token)
    assert await outcome(team.outsider.orgs.AcceptInvitation(accepting)) == INVITATION_CLOSED
    call = team.owner.service_accounts.DeleteServiceAccount
    assert await outcome(call(deletion(team, user_id))) == NOT_FOUND


async def test_deleting_cancels_what_is_in_progress(team: Team, new_backend: NewBackend, standin: Standin) -> None:
    talk(standin)
    user_id = await make_account(team.owner, team.org_id)
    backend = new_backend((await make_key(team.owner, team.org_id, user_id)).secret)
    conversation_id = await make_conversation(backend, await make_workspace(team.owner, team.org_id))
    request = chat_pb2.SendMessageRequest(conversation_id=conversation_id, content="hello", model=OPENAI)
    stream = backend.chat.SendMessage(request)
    await stream.read()
    await team.owner.service_accounts.DeleteServiceAccount(deletion(team, user_id))
    events = [response.event async for response in stream]
    assert events[-1].WhichOneof("event") == "run_cancelled"


async def test_a_key_manages_accounts_within_its_scopes(team: Team, new_backend: NewBackend) -> None:
    user_id = await make_account(team.owner, team.org_id)
    scopes = ["service_account.manage", "org.read", "member.read", "workspace.read", "chat.read", "document.read"]
    backend = new_backend((await make_key(team.owner, team.org_id, user_id, scopes)).secret)
    call = backend.service_accounts.CreateServiceAccount
    assert await outcome(call(creation(team, role=VIEWER))) == OK
    assert await outcome(call(creation(team, role=ADMIN))) == PERMISSION_MISSING
    assert await outcome(call(creation(team, role=OWNER))) == INVALID
    own = deletion(team, user_id)
    assert await outcome(backend.service_accounts.DeleteServiceAccount(own)) == PERMISSION_MISSING


async def test_every_permission_is_in_some_key(team: Team, staff: dict[str, Person]) -> None:
    """What the tests call all permissions is what the contract has."""
    assert len(EVERY) >= 19
    await join(team.owner, team.org_id, staff["outsider"], OWNER)
    await make_key(staff["outsider"], team.org_id, await make_account(team.owner, team.org_id), EVERY)
