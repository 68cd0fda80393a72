"""Invitations: who may make them, and that each is accepted once, by the right person, in time."""

import asyncio
import base64
import string
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace.v1 import org_pb2 as pb
from tests.support.orgs import (
    accept,
    has_access,
    invitation,
    invite,
    invite_outsider,
    list_invitations,
    revoke_invitation,
)
from tests.support.outcomes import (
    ALREADY_EXISTS,
    INVITATION_CLOSED,
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
from tests.support.people import NewPerson, Person, make_org
from tests.support.postgres import as_owner, sql, until_blocked
from tests.support.staff import ADMIN, MEMBER, OWNER, VIEWER, Team
from tests.support.stores import Stores


async def latest(team: Team) -> pb.Invitation:
    return (await list_invitations(team.owner, team.org_id))[0]


# Inviting


async def test_an_invitation_makes_its_addressee_a_member(team: Team) -> None:
    made = await invite(team.admin, team.org_id, team.outsider.email.upper(), VIEWER)
    invited = made.invitation
    assert (invited.email, invited.role, invited.inviter_id) == (team.outsider.email, VIEWER, team.admin.user_id)
    assert invited.expire_time.seconds - invited.create_time.seconds == 7 * 24 * 3600
    assert invited.state == pb.INVITATION_STATE_PENDING
    assert await latest(team) == invited
    org = (await accept(team.outsider, made.token)).org
    assert (org.org_id, org.role) == (team.org_id, VIEWER)
    assert (await latest(team)).state == pb.INVITATION_STATE_ACCEPTED
    assert (await team.outsider.orgs.GetOrg(pb.GetOrgRequest(org_id=team.org_id))).org == org


@pytest.mark.parametrize(
    ("role", "offered", "expected"),
    [
        ("viewer", VIEWER, PERMISSION_MISSING),
        ("member", VIEWER, PERMISSION_MISSING),
        ("admin", ADMIN, OK),
        ("admin", OWNER, PERMISSION_MISSING),
        ("owner", OWNER, OK),
        ("outsider", VIEWER, NOT_FOUND),
    ],
)
async def test_nobody_offers_a_role_above_their_own(role: str, offered: int, expected: str, team: Team) -> None:
    request = invitation(team.org_id, "somebody@example.com", offered)
    assert await outcome(team.somebody(role).orgs.CreateInvitation(request)) == expected
    assert len(await list_invitations(team.owner, team.org_id)) == (4 if expected == OK else 3)


@pytest.mark.parametrize("change", [str.lower, str.upper])
async def test_members_are_not_invited(change: Any, team: Team) -> None:
    request = invitation(team.org_id, change(team.viewer.email))
    assert await outcome(team.owner.orgs.CreateInvitation(request)) == ALREADY_EXISTS


async def test_inviting_again_with_the_same_request_id_gives_the_same_invitation(team: Team) -> None:
    request = invitation(team.org_id, "somebody@example.com", request_id=str(uuid.uuid4()))
    first, second = [await team.owner.orgs.CreateInvitation(request) for _ in range(2)]
    assert first == second
    assert first.token
    assert [found.email for found in await list_invitations(team.owner, team.org_id)].count("somebody@example.com") == 1
    request.role = VIEWER
    assert await outcome(team.owner.orgs.CreateInvitation(request)) == REQUEST_ID_REUSED


@pytest.mark.parametrize(
    ("field", "value"),
    [("email", "nobody"), ("email", "a\0b@example.com"), ("role", 0), ("role", 7), ("role", -1), ("request_id", "1")],
)
async def test_what_breaks_a_rule_is_refused_by_name(field: str, value: Any, team: Team) -> None:
    request = invitation(team.org_id, "somebody@example.com")
    setattr(request, field, value)
    assert await named(team.owner.orgs.CreateInvitation(request)) == (field,)


async def test_the_token_is_stored_nowhere_and_listed_nowhere(team: Team, stores: Stores) -> None:
    request = invitation(team.org_id, "somebody@example.com", request_id=str(uuid.uuid4()))
    token = (await team.owner.orgs.CreateInvitation(request)).token
    stored = await sql(stores, "SELECT reply FROM replies WHERE request_id = %s", request.request_id)
    stored += await sql(stores, "SELECT to_jsonb(invitations)::text FROM invitations WHERE org_id = %s", team.org_id)
    assert len(stored) == 5
    assert token not in str(stored)


# Accepting


async def test_an_invitation_is_accepted_once(team: Team) -> None:
    token = (await invite_outsider(team)).token
    calls = [accept(team.outsider, token, str(uuid.uuid4())) for _ in range(20)]
    assert await outcomes(calls) == {OK: 1, INVITATION_CLOSED: 19}
    assert len((await team.owner.orgs.ListMembers(pb.ListMembersRequest(org_id=team.org_id))).members) == 5


async def test_a_repeated_acceptance_gives_the_first_answer(team: Team) -> None:
    token, request_id = (await invite_outsider(team)).token, str(uuid.uuid4())
    assert await accept(team.outsider, token, request_id) == await accept(team.outsider, token, request_id)
    assert await outcome(accept(team.outsider, token)) == INVITATION_CLOSED


async def test_of_two_invitations_accepted_at_once_one_counts(team: Team) -> None:
    tokens = [(await invite_outsider(team, role)).token for role in (VIEWER, MEMBER)]
    assert await outcomes(accept(team.outsider, token) for token in tokens) == {OK: 1, INVITATION_CLOSED: 1}


async def test_nobody_accepts_what_was_sent_to_somebody_else(team: Team, owner: Person) -> None:
    token = (await invite_outsider(team)).token
    for_another = await refusal(accept(owner, token))
    unknown = await refusal(accept(owner, "no such token"))
    assert for_another == unknown
    assert unknown is not None
    assert unknown.code == "NOT_FOUND"
    assert not await has_access(owner, team.org_id)
    assert await outcome(accept(team.outsider, token)) == OK, "the attempt did no harm"


@few
@given(position=st.integers(0, 85), character=st.sampled_from("AB-_9z=!\n é"))
async def test_a_token_that_was_tampered_with_is_not_found(
    position: int, character: str, still_open: pb.CreateInvitationResponse, outsider: Person
) -> None:
    token = still_open.token
    tampered = token[:position] + character + token[position + 1 :]
    if tampered != token:
        assert await outcome(accept(outsider, tampered)) == NOT_FOUND


@pytest.fixture(scope="module")
async def outsider(new_person: NewPerson) -> Person:
    return await new_person()


@pytest.fixture(scope="module")
async def still_open(new_person: NewPerson, outsider: Person) -> pb.CreateInvitationResponse:
    """An invitation of the outsider that nobody accepts."""
    founder = await new_person()
    request = invitation(await make_org(founder), outsider.email)
    response: pb.CreateInvitationResponse = await founder.orgs.CreateInvitation(request)
    return response


async def test_other_spellings_of_a_token_are_not_found(
    still_open: pb.CreateInvitationResponse, outsider: Person
) -> None:
    token = still_open.token
    content = base64.urlsafe_b64decode(token + "==")
    spellings = [token + "==", token + "=", f"{token[:40]}!{token[40:]}"]
    ends = [token[:-1] + end for end in string.ascii_letters if end != token[-1]]
    spellings += [spelling for spelling in ends if base64.urlsafe_b64decode(spelling + "==") == content]
    assert len(spellings) > 3
    assert [await outcome(accept(outsider, spelling)) for spelling in spellings] == [NOT_FOUND] * len(spellings)


@pytest.mark.parametrize("token", ["", "x" * 257])
async def test_a_token_has_bounds(token: str, owner: Person) -> None:
    assert await named(accept(owner, token)) == ("token",)


async def test_an_invitation_expires(team: Team, stores: Stores) -> None:
    made = await invite_outsider(team)
    past = "UPDATE invitations SET expire_time = now() - interval '61 s' WHERE id = %s"
    await sql(stores, past, made.invitation.invitation_id)
    assert await outcome(accept(team.outsider, made.token)) == INVITATION_CLOSED
    assert (await latest(team)).state == pb.INVITATION_STATE_EXPIRED
    assert not await has_access(team.outsider, team.org_id)


# Withdrawing


async def test_a_withdrawn_invitation_is_not_accepted(team: Team) -> None:
    made = await invite_outsider(team)
    first = (await revoke_invitation(team.admin, made.invitation)).invitation
    assert first.state == pb.INVITATION_STATE_REVOKED
    assert (await revoke_invitation(team.admin, made.invitation)).invitation == first, (
        "withdrawing again changes nothing"
    )
    assert await outcome(accept(team.outsider, made.token)) == INVITATION_CLOSED
    assert not await has_access(team.outsider, team.org_id)


async def test_an_accepted_invitation_is_not_withdrawn(team: Team) -> None:
    made = await invite_outsider(team)
    await accept(team.outsider, made.token)
    assert await outcome(revoke_invitation(team.admin, made.invitation)) == INVITATION_CLOSED
    assert await has_access(team.outsider, team.org_id)


async def test_withdrawn_and_accepted_at_once_it_is_one_of_the_two(team: Team) -> None:
    made = await invite_outsider(team)
    assert await outcomes(
        [
            revoke_invitation(team.admin, made.invitation),
            accept(team.outsider, made.token),
        ]
    ) == {
        OK: 1,
        INVITATION_CLOSED: 1,
    }
    accepted = (await latest(team)).state == pb.INVITATION_STATE_ACCEPTED
    assert await has_access(team.outsider, team.org_id) == accepted


@pytest.mark.parametrize(
    ("becomes", "left"),
    [(None, []), (VIEWER, []), (MEMBER, []), (ADMIN, [ADMIN, VIEWER]), (OWNER, [OWNER, ADMIN, VIEWER])],
    ids=["removed", "viewer", "member", "admin", "owner"],
)
async def test_invitations_end_that_their_inviter_could_no_longer_make(
    becomes: int | None, left: list[int], team: Team
) -> None:
    """Else whoever is about to be removed invites themselves, under another address, to come back."""
    await team.owner.orgs.UpdateMember(membership(team, team.member, OWNER))
    for role in (VIEWER, ADMIN, OWNER):
        await team.member.orgs.CreateInvitation(invitation(team.org_id, f"{role}@example.com", role))
    if becomes is None:
        removal = pb.RemoveMemberRequest(org_id=team.org_id, user_id=team.member.user_id)
        await team.owner.orgs.RemoveMember(removal)
    else:
        await team.owner.orgs.UpdateMember(membership(team, team.member, becomes))
    assert [
        made.role
        for made in await list_invitations(team.owner, team.org_id)
        if made.state == pb.INVITATION_STATE_PENDING
    ] == left


def membership(team: Team, person: Person, role: int) -> pb.UpdateMemberRequest:
    return pb.UpdateMemberRequest(
        member=pb.Member(org_id=team.org_id, user_id=person.user_id, role=pb.Role.ValueType(role))
    )


async def test_a_withdrawn_inviters_token_is_closed_and_others_stay_open(team: Team, new_person: NewPerson) -> None:
    other = await new_person()
    by_admin = (await team.admin.orgs.CreateInvitation(invitation(team.org_id, team.outsider.email))).token
    by_owner = (await team.owner.orgs.CreateInvitation(invitation(team.org_id, other.email))).token
    await team.admin.orgs.RemoveMember(pb.RemoveMemberRequest(org_id=team.org_id, user_id=team.admin.user_id))
    assert await outcome(accept(team.outsider, by_admin)) == INVITATION_CLOSED
    assert await outcome(accept(other, by_owner)) == OK


async def test_an_acceptance_that_meets_the_removal_of_the_inviter_comes_before_or_after(
    team: Team, stores: Stores
) -> None:
    """Both change organization and invitation: neither waits for ever for what the other one holds."""
    token = (await invite_outsider(team)).token
    async with as_owner(stores) as busy, busy.transaction():
        await busy.execute("SELECT FROM orgs WHERE id = %s FOR UPDATE", [team.org_id])
        removal = pb.RemoveMemberRequest(org_id=team.org_id, user_id=team.admin.user_id)
        accepting = asyncio.create_task(outcome(accept(team.outsider, token)))
        removing = asyncio.create_task(outcome(team.owner.orgs.RemoveMember(removal)))
        await until_blocked(stores, accepting, removing)
    assert await removing == OK
    assert await accepting in (OK, INVITATION_CLOSED)
    assert await has_access(team.outsider, team.org_id) == (await accepting == OK)


async def test_nobody_invites_after_their_removal_has_begun(team: Team, stores: Stores) -> None:
    """The call was let in while the caller was an admin, and waits for the removal to end."""
    async with as_owner(stores) as removal, removal.transaction():
        await removal.execute("SELECT FROM orgs WHERE id = %s FOR UPDATE", [team.org_id])
        gone = "DELETE FROM memberships WHERE org_id = %s AND user_id = %s"
        await removal.execute(gone, [team.org_id, team.admin.user_id])
        request = invitation(team.org_id, "somebody@example.com")
        inviting = asyncio.create_task(outcome(team.admin.orgs.CreateInvitation(request)))
        await until_blocked(stores, inviting)
    assert await inviting == NOT_FOUND


async def test_invitations_of_others_are_as_unknown_as_those_of_nobody(team: Team, owner: Person) -> None:
    made = (await invite_outsider(team)).invitation
    own_org = await make_org(owner)
    ids = made.invitation_id, str(uuid.uuid4())
    calls = [
        revoke_invitation(owner, pb.Invitation(org_id=own_org, invitation_id=invitation_id)) for invitation_id in ids
    ]
    foreign, unknown = [await refusal(call) for call in calls]
    assert foreign == unknown
    assert unknown is not None
    assert unknown.code == "NOT_FOUND"
    assert (await latest(team)).state == pb.INVITATION_STATE_PENDING


@pytest.mark.parametrize("role", ["viewer", "member"])
async def test_who_may_not_invite_neither_lists_nor_withdraws(role: str, team: Team) -> None:
    made, person = (await invite_outsider(team)).invitation, team.somebody(role)
    assert (
        await outcome(person.orgs.ListInvitations(pb.ListInvitationsRequest(org_id=team.org_id))) == PERMISSION_MISSING
    )
    assert await outcome(revoke_invitation(person, made)) == PERMISSION_MISSING


# Listing


@pytest.fixture(scope="module")
async def inviter(new_person: NewPerson) -> tuple[Person, str]:
    """The owner of an organization with seven invitations."""
    person = await new_person()
    org_id = await make_org(person)
    for number in range(7):
        await person.orgs.CreateInvitation(invitation(org_id, f"{number}@example.com"))
    return person, org_id


@few
@given(size=st.integers(1, 8))
async def test_pages_of_invitations_add_up(size: int, inviter: tuple[Person, str]) -> None:
    person, org_id = inviter
    request = pb.ListInvitationsRequest(org_id=org_id)
    found = await read_all(person.orgs.ListInvitations, request, "invitations", size)
    assert [invited.email for invited in found] == [f"{number}@example.com" for number in reversed(range(7))]
