"""Deleting an account: who may, what ends at once, and what stays. What is erased later: see tests/erasure."""

import uuid
from typing import Any

import grpc
import pytest

from aiworkspace.v1 import account_pb2, auth_pb2, chat_pb2, org_pb2
from tests.standin import Script, Standin
from tests.support.accounts import SignIn, get_me, login
from tests.support.mailbox import RESET, Mailbox
from tests.support.outcomes import LAST_OWNER, NOT_FOUND, OK, PASSWORD_WRONG, UNAUTHENTICATED, outcome, outcomes
from tests.support.people import PASSWORD, NewPerson, Person, Place, join, make_conversation, make_org
from tests.support.postgres import sql, until_no_jobs
from tests.support.stores import Stores

_MEMBER = org_pb2.ROLE_MEMBER


def delete(person: Person, password: str = PASSWORD, **fields: str) -> Any:
    return person.accounts.DeleteAccount(account_pb2.DeleteAccountRequest(password=password, **fields))


async def test_every_session_ends_and_the_address_can_be_registered_again(
    new_person: NewPerson, sign_in: SignIn
) -> None:
    person = await new_person()
    other = await sign_in(person)
    refresh = auth_pb2.RefreshRequest(refresh_token=other.tokens.refresh_token)
    await delete(person)
    for device in (person, other):
        assert await outcome(get_me(device)) == UNAUTHENTICATED
    assert await outcome(person.auth.Refresh(refresh)) == UNAUTHENTICATED
    assert await outcome(person.auth.Login(login(person.email))) == PASSWORD_WRONG
    old = person.user_id
    await person.register()
    assert person.user_id != old


async def test_without_the_password_nothing_is_deleted(new_person: NewPerson) -> None:
    person = await new_person()
    assert await outcome(delete(person, "not my password")) == PASSWORD_WRONG
    assert await outcome(person.auth.Login(login(person.email))) == OK


async def test_the_only_owner_of_organizations_is_told_which(new_person: NewPerson) -> None:
    person, other = await new_person(), await new_person()
    owned = [await make_org(person), await make_org(person)]
    shared = await make_org(person)
    await join(person, shared, other, org_pb2.ROLE_OWNER)
    member_of = await make_org(other)
    await join(other, member_of, person, org_pb2.ROLE_MEMBER)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await delete(person)
    assert await outcome(delete(person)) == LAST_OWNER
    assert _metadata(caught.value)["org_ids"].split(",") == owned
    listed = await person.orgs.ListOrgs(org_pb2.ListOrgsRequest())
    assert [org.org_id for org in listed.orgs] == [*owned, shared, member_of], "nothing was left"
    for org_id in owned:
        await person.orgs.DeleteOrg(org_pb2.DeleteOrgRequest(org_id=org_id))
    assert await outcome(delete(person)) == OK


def _metadata(error: grpc.aio.AioRpcError) -> dict[str, str]:
    from google.rpc import error_details_pb2, status_pb2

    status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return dict(info.metadata)


async def test_of_two_owners_who_delete_their_accounts_at_once_one_stays(new_person: NewPerson) -> None:
    for _ in range(5):
        first, second = await new_person(), await new_person()
        org_id = await make_org(first)
        await join(first, org_id, second, org_pb2.ROLE_OWNER)
        assert await outcomes([delete(first), delete(second)]) == {OK: 1, LAST_OWNER: 1}


async def test_fifty_calls_at_once_delete_once(new_person: NewPerson, stores: Stores) -> None:
    person = await new_person()
    request_id = str(uuid.uuid4())
    found = await outcomes(delete(person, request_id=request_id) for _ in range(50))
    assert found[OK] >= 1
    assert found.keys() <= {OK, UNAUTHENTICATED}
    query = "SELECT version FROM users WHERE id = %s"
    assert await sql(stores, query, person.user_id) == [(2,)]


async def test_an_organization_that_is_made_meanwhile_keeps_an_owner(new_person: NewPerson, stores: Stores) -> None:
    for _ in range(5):
        person = await new_person()
        made = (person.orgs.CreateOrg(org_pb2.CreateOrgRequest(name="Late")) for _ in range(3))
        assert (await outcomes([*made, delete(person)])).keys() <= {OK, LAST_OWNER, UNAUTHENTICATED}
        query = """
          SELECT 1 FROM users u JOIN memberships m ON m.user_id = u.id WHERE u.id = %s AND u.delete_time IS NOT NULL
        """
        assert await sql(stores, query, person.user_id) == []


async def test_calls_of_the_account_at_the_same_time_block_nothing(place: Place, new_person: NewPerson) -> None:
    for _ in range(5):
        person = await new_person()
        await join(place.owner, place.org_id, person, org_pb2.ROLE_ADMIN)
        invite = (
            org_pb2.CreateInvitationRequest(
                org_id=place.org_id, email=f"{uuid.uuid4().hex}@example.com", role=_MEMBER, request_id=request_id
            )
            for request_id in ("", str(uuid.uuid4()), "")
        )
        calls = [person.orgs.CreateInvitation(request) for request in invite]
        found = await outcomes([*calls[:2], delete(person), *calls[2:]])
        assert found.keys() <= {OK, UNAUTHENTICATED, NOT_FOUND}


async def test_memberships_runs_and_invitations_end(
    place: Place, new_person: NewPerson, standin: Standin, stores: Stores
) -> None:
    standin.script("gpt-4o-mini", Script(tokens=("word ",) * 1500, seconds_per_token=0.02))
    person = await new_person()
    await join(place.owner, place.org_id, person, org_pb2.ROLE_ADMIN)
    invite = org_pb2.CreateInvitationRequest(
        org_id=place.org_id, email=f"{uuid.uuid4().hex}@example.com", role=org_pb2.ROLE_MEMBER
    )
    made = (await person.orgs.CreateInvitation(invite)).invitation
    conversation_id = await make_conversation(person, place.workspace_id, "openai/gpt-4o-mini")
    stream = person.chat.SendMessage(chat_pb2.SendMessageRequest(conversation_id=conversation_id, content="hello"))
    first = (await stream.read()).event
    await delete(person)
    await until_no_jobs(stores, person.user_id)
    state = "SELECT state FROM run_claims WHERE run_id = %s"
    assert await sql(stores, state, first.run_id) == [("closed",)]
    stream.cancel()
    listed = await place.owner.orgs.ListMembers(org_pb2.ListMembersRequest(org_id=place.org_id))
    assert person.user_id not in {member.user_id for member in listed.members}
    invitations = await place.owner.orgs.ListInvitations(org_pb2.ListInvitationsRequest(org_id=place.org_id))
    states = {found.invitation_id: found.state for found in invitations.invitations}
    assert states[made.invitation_id] == org_pb2.INVITATION_STATE_REVOKED
    assert person.email not in {found.email for found in invitations.invitations}, "not even those that were accepted"


async def test_a_pending_invitation_is_not_for_who_registers_the_address_again(
    place: Place, new_person: NewPerson
) -> None:
    person = await new_person()
    invite = org_pb2.CreateInvitationRequest(org_id=place.org_id, email=person.email, role=org_pb2.ROLE_MEMBER)
    token = (await place.owner.orgs.CreateInvitation(invite)).token
    await delete(person)
    await person.register()
    assert await outcome(person.orgs.AcceptInvitation(org_pb2.AcceptInvitationRequest(token=token))) == NOT_FOUND


async def test_mailed_tokens_end(new_person: NewPerson, mailbox: Mailbox) -> None:
    person = await new_person()
    await person.accounts.RequestPasswordReset(account_pb2.RequestPasswordResetRequest(email=person.email))
    token = await mailbox.token(person.email, RESET)
    await delete(person)
    await person.register()
    request = account_pb2.ResetPasswordRequest(token=token, new_password="another long passphrase here")
    assert await outcome(person.accounts.ResetPassword(request)) == NOT_FOUND


async def test_the_account_and_its_organizations_have_it_in_their_logs(
    place: Place, new_person: NewPerson, stores: Stores
) -> None:
    person = await new_person()
    await join(place.owner, place.org_id, person, org_pb2.ROLE_MEMBER)
    await delete(person)
    query = "SELECT method, code, user_id::text FROM audit_events WHERE chain_id = %s ORDER BY sequence DESC LIMIT 1"
    for chain_id in (person.user_id, place.org_id):
        assert await sql(stores, query, chain_id) == [("AccountService/DeleteAccount", "OK", person.user_id)]


async def test_what_stays_of_an_account_is_its_id_and_times(new_person: NewPerson, stores: Stores) -> None:
    person = await new_person()
    await delete(person)
    columns = "email, display_name, password_hash, verify_time, request_id"
    row = await sql(stores, f"SELECT {columns} FROM users WHERE id = %s", person.user_id)
    assert row == [(None, "", None, None, None)]
    assert await sql(stores, "SELECT 1 FROM sessions WHERE user_id = %s", person.user_id) == []
