"""What was made with an API key ends with it, and taking a right away needs what giving it needs."""

from dataclasses import dataclass
from typing import Any

import pytest

from aiworkspace.v1 import org_pb2
from aiworkspace.v1 import service_account_pb2 as pb
from tests.support.custom_roles import restrict
from tests.support.orgs import has_access, list_invitations
from tests.support.outcomes import OK, PERMISSION_MISSING, UNAUTHENTICATED, outcome
from tests.support.people import NewPerson, Person, make_org, make_workspace
from tests.support.postgres import sql
from tests.support.service_accounts import (
    EVERY,
    OF_ADMINS,
    NewBackend,
    make_account,
    make_custom_role,
    make_key,
    revoke_key,
)
from tests.support.staff import Team, hire, make_team
from tests.support.stores import Stores
from tests.support.teams import delete_group, make_group, take_out
from tests.support.workspaces import CLOSED, MANAGER, READER, set_visibility, share


@dataclass
class Chain:
    """A key; a key and an invitation that were made with it; and a key and an account that were made with that."""

    owner: Person
    org_id: str
    account_id: str
    first: pb.CreateApiKeyResponse
    second: pb.CreateApiKeyResponse
    third: pb.CreateApiKeyResponse
    invitation: org_pb2.CreateInvitationResponse
    made_account_id: str
    backends: list[Person]


@pytest.fixture
async def chain(new_person: NewPerson, new_backend: NewBackend) -> Chain:
    owner = await new_person()
    org_id = await make_org(owner)
    account_id = await make_account(owner, org_id)
    first = await make_key(owner, org_id, account_id)
    one = new_backend(first.secret)
    second = await make_key(one, org_id, account_id)
    two = new_backend(second.secret)
    made_account_id = await make_account(two, org_id)
    third = await make_key(two, org_id, made_account_id)
    request = org_pb2.CreateInvitationRequest(org_id=org_id, email="by-a-key@example.com", role=org_pb2.ROLE_ADMIN)
    invitation = await two.orgs.CreateInvitation(request)
    keys = [one, two, new_backend(third.secret)]
    return Chain(owner, org_id, account_id, first, second, third, invitation, made_account_id, keys)


async def invitation_state(chain: Chain) -> int:
    (made,) = await list_invitations(chain.owner, chain.org_id)
    return int(made.state)


async def test_what_was_made_with_a_key_is_listed_and_ends_with_it(chain: Chain) -> None:
    assert chain.first.api_key.creator_key_id == ""
    assert chain.second.api_key.creator_key_id == chain.first.api_key.api_key_id
    assert chain.invitation.invitation.creator_key_id == chain.second.api_key.api_key_id
    answer = await revoke_key(chain.owner, chain.first.api_key)
    made = [(key.api_key_id, key.state) for key in answer.created_api_keys]
    expected = [key.api_key.api_key_id for key in (chain.third, chain.second)]
    assert made == [(key_id, pb.API_KEY_STATE_REVOKED) for key_id in expected]
    assert [made.state for made in answer.created_invitations] == [org_pb2.INVITATION_STATE_REVOKED]
    assert [account.user_id for account in answer.created_service_accounts] == [chain.made_account_id]
    assert [await has_access(backend, chain.org_id) for backend in chain.backends] == [False] * 3
    assert await invitation_state(chain) == org_pb2.INVITATION_STATE_REVOKED


async def test_what_was_made_with_a_key_stays_when_the_caller_says_so(chain: Chain) -> None:
    answer = await revoke_key(chain.owner, chain.first.api_key, keep_created=True)
    assert [key.state for key in answer.created_api_keys] == [pb.API_KEY_STATE_ACTIVE] * 2
    assert [await has_access(backend, chain.org_id) for backend in chain.backends] == [False, True, True]
    assert await invitation_state(chain) == org_pb2.INVITATION_STATE_PENDING
    await revoke_key(chain.owner, chain.first.api_key)
    assert [await has_access(backend, chain.org_id) for backend in chain.backends] == [False] * 3, "asked for later"


async def test_a_key_that_was_rotated_with_itself_ends_with_it(chain: Chain, new_backend: NewBackend) -> None:
    request = pb.RotateApiKeyRequest(
        org_id=chain.org_id, api_key_id=chain.first.api_key.api_key_id, overlap_seconds=3600
    )
    rotated = new_backend((await chain.backends[0].service_accounts.RotateApiKey(request)).secret)
    assert await has_access(rotated, chain.org_id)
    await revoke_key(chain.owner, chain.first.api_key)
    assert not await has_access(rotated, chain.org_id)


async def test_a_key_may_end_itself(chain: Chain) -> None:
    assert await outcome(revoke_key(chain.backends[0], chain.first.api_key)) == OK
    refused = chain.backends[0].orgs.GetOrg(org_pb2.GetOrgRequest(org_id=chain.org_id))
    assert await outcome(refused) == UNAUTHENTICATED


@pytest.mark.parametrize("how", ["deleted", "suspended", "removed"])
async def test_what_an_account_made_with_its_keys_ends_with_its_access(how: str, chain: Chain) -> None:
    ids: dict[str, Any] = {"org_id": chain.org_id, "user_id": chain.account_id}
    if how == "deleted":
        await chain.owner.service_accounts.DeleteServiceAccount(pb.DeleteServiceAccountRequest(**ids))
    elif how == "suspended":
        await chain.owner.orgs.SuspendMember(org_pb2.SuspendMemberRequest(**ids))
    else:
        await chain.owner.orgs.RemoveMember(org_pb2.RemoveMemberRequest(**ids))
    assert [await has_access(backend, chain.org_id) for backend in chain.backends] == [False] * 3
    assert await invitation_state(chain) == org_pb2.INVITATION_STATE_REVOKED


# People who made keys have seen them


@pytest.fixture
async def team(new_person: NewPerson) -> Team:
    return await make_team(await hire(new_person))


@pytest.mark.parametrize("how", ["removed", "suspended", "left"])
@pytest.mark.parametrize("asked", [False, True])
async def test_keys_that_a_person_made_are_told_of_and_end_when_that_is_asked_for(
    how: str, asked: bool, team: Team, new_backend: NewBackend
) -> None:
    made = await make_key(team.admin, team.org_id, await make_account(team.owner, team.org_id))
    others = await make_key(team.owner, team.org_id, made.api_key.user_id)
    ids: dict[str, Any] = {"org_id": team.org_id, "user_id": team.admin.user_id}
    by = team.admin if how == "left" else team.owner
    if how == "suspended":
        answer = await by.orgs.SuspendMember(org_pb2.SuspendMemberRequest(**ids, revoke_created_keys=asked))
    else:
        answer = await by.orgs.RemoveMember(org_pb2.RemoveMemberRequest(**ids, revoke_created_keys=asked))
    told = list(answer.revoked_api_key_ids), list(answer.kept_api_key_ids)
    its_id = made.api_key.api_key_id
    assert told == (([its_id], []) if asked else ([], [its_id]))
    assert await has_access(new_backend(made.secret), team.org_id) != asked
    assert await has_access(new_backend(others.secret), team.org_id)


async def test_keys_stay_that_include_what_the_remover_lacks(team: Team, new_backend: NewBackend) -> None:
    made = await make_key(team.admin, team.org_id, await make_account(team.owner, team.org_id))
    await restrict(team, team.admin, "member.read", "org.read")
    await restrict(team, team.member, "member.manage", "member.read", "org.read")
    ids = {"org_id": team.org_id, "user_id": team.admin.user_id}
    request = org_pb2.RemoveMemberRequest(**ids, revoke_created_keys=True)
    assert list((await team.member.orgs.RemoveMember(request)).kept_api_key_ids) == [made.api_key.api_key_id]
    assert await has_access(new_backend(made.secret), team.org_id)


async def test_keys_that_a_deleted_account_made_are_told_of(chain: Chain) -> None:
    request = pb.DeleteServiceAccountRequest(org_id=chain.org_id, user_id=chain.account_id)
    answer = await chain.owner.service_accounts.DeleteServiceAccount(request)
    assert list(answer.revoked_api_key_ids) == [chain.third.api_key.api_key_id], "the others were its own"
    assert list(answer.kept_api_key_ids) == []


async def test_keys_that_a_deleted_account_made_and_that_stay_are_told_of(
    team: Team, new_backend: NewBackend, stores: Stores
) -> None:
    maker, other = await make_account(team.owner, team.org_id), await make_account(team.owner, team.org_id)
    first = await make_key(team.owner, team.org_id, maker)
    made = await make_key(new_backend(first.secret), team.org_id, other)
    await restrict(team, team.admin, "service_account.manage", "org.read")
    role_id = await make_custom_role(stores, team.org_id, ["org.read"])
    await sql(stores, "UPDATE memberships SET role = 'custom', custom_role_id = %s WHERE user_id = %s", role_id, maker)
    request = pb.DeleteServiceAccountRequest(org_id=team.org_id, user_id=maker)
    answer = await team.admin.service_accounts.DeleteServiceAccount(request)
    assert list(answer.revoked_api_key_ids) == []
    assert list(answer.kept_api_key_ids) == [made.api_key.api_key_id]
    assert await has_access(new_backend(made.secret), team.org_id)


# Taking needs what giving needs


async def test_nobody_revokes_a_key_that_includes_what_they_lack(team: Team, new_backend: NewBackend) -> None:
    made = await make_key(team.owner, team.org_id, await make_account(team.owner, team.org_id), EVERY)
    assert await outcome(revoke_key(team.admin, made.api_key)) == PERMISSION_MISSING
    assert await has_access(new_backend(made.secret), team.org_id)
    lesser = await make_key(team.owner, team.org_id, made.api_key.user_id, OF_ADMINS)
    assert await outcome(revoke_key(team.admin, lesser.api_key)) == OK


async def test_nobody_takes_a_team_away_that_may_more_than_they_do(team: Team) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id)
    await set_visibility(team.owner, workspace_id, CLOSED)
    group = await make_group(team.owner, team.org_id, team.viewer, team.member)
    await share(team.owner, workspace_id, MANAGER, team_id=group)
    await share(team.owner, workspace_id, READER, user_id=team.member.user_id)
    await restrict(team, team.admin, "team.manage", "org.read", "member.read")
    assert await outcome(take_out(team.admin, team.org_id, group, team.viewer.user_id)) == PERMISSION_MISSING
    assert await outcome(delete_group(team.admin, team.org_id, group)) == PERMISSION_MISSING
    assert await outcome(delete_group(team.owner, team.org_id, group)) == OK


@pytest.mark.parametrize("method", ["RemoveMember", "SuspendMember", "ReinstateMember"])
async def test_nobody_takes_or_gives_back_places_in_workspaces_that_they_lack(method: str, team: Team) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id)
    await set_visibility(team.owner, workspace_id, CLOSED)
    await share(team.owner, workspace_id, MANAGER, user_id=team.viewer.user_id)
    await restrict(
        team, team.admin, "member.manage", "org.read", "member.read", "workspace.read", "chat.read", "document.read"
    )
    request = getattr(org_pb2, f"{method}Request")(org_id=team.org_id, user_id=team.viewer.user_id)
    assert await outcome(getattr(team.admin.orgs, method)(request)) == PERMISSION_MISSING
    await share(team.owner, workspace_id, MANAGER, user_id=team.admin.user_id)
    assert await outcome(getattr(team.admin.orgs, method)(request)) == OK
