"""An address has one open invitation of an organization, and none outlives a membership."""

import asyncio

import pytest

from aiworkspace.v1 import org_pb2 as pb
from tests.support.orgs import (
    accept,
    has_access,
    invitation,
    invite_outsider,
    list_invitations,
    list_members,
    remove_member,
    revoke_invitation,
    suspend,
)
from tests.support.outcomes import INVITATION_CLOSED, OK, PERMISSION_MISSING, outcome, outcomes
from tests.support.people import NewPerson, Person, join, make_org
from tests.support.postgres import sql
from tests.support.staff import ADMIN, MEMBER, OWNER, VIEWER, Team
from tests.support.stores import Stores

_OPEN = "SELECT count(*) FROM invitations WHERE org_id = %s AND accept_time IS NULL AND revoke_time IS NULL"


async def test_inviting_again_renews_the_invitation(team: Team) -> None:
    first = await invite_outsider(team, VIEWER)
    second = await team.owner.orgs.CreateInvitation(invitation(team.org_id, team.outsider.email.upper(), ADMIN))
    assert second.token == first.token
    assert second.invitation.invitation_id == first.invitation.invitation_id
    assert (second.invitation.role, second.invitation.inviter_id) == (ADMIN, team.owner.user_id)
    assert second.invitation.expire_time.ToNanoseconds() > first.invitation.expire_time.ToNanoseconds()
    await accept(team.outsider, first.token)
    members = await list_members(team.owner, team.org_id)
    assert {each.user_id: each.role for each in members}[team.outsider.user_id] == ADMIN
    assert (
        len([each for each in await list_invitations(team.owner, team.org_id) if each.email == team.outsider.email])
        == 1
    )


async def test_an_expired_invitation_is_followed_by_another(team: Team, stores: Stores) -> None:
    first = await invite_outsider(team)
    past = "UPDATE invitations SET expire_time = now() - interval '61 s' WHERE id = %s"
    await sql(stores, past, first.invitation.invitation_id)
    second = await invite_outsider(team)
    assert second.token != first.token
    states = {each.invitation_id: each.state for each in await list_invitations(team.owner, team.org_id)}
    assert states[first.invitation.invitation_id] == pb.INVITATION_STATE_EXPIRED
    assert await outcome(accept(team.outsider, first.token)) == INVITATION_CLOSED
    assert await outcome(accept(team.outsider, second.token)) == OK


async def test_of_twenty_invitations_at_once_one_is_open(team: Team, stores: Stores) -> None:
    before = await sql(stores, _OPEN, team.org_id)
    await asyncio.gather(*(invite_outsider(team, role) for role in (VIEWER, MEMBER, ADMIN, MEMBER) * 5))
    assert await sql(stores, _OPEN, team.org_id) == [(before[0][0] + 1,)]


async def test_the_database_refuses_a_second_open_invitation(team: Team, stores: Stores) -> None:
    made = (await invite_outsider(team)).invitation
    copy = """INSERT INTO invitations (org_id, id, email, role, inviter_id, create_time, expire_time)
              SELECT org_id, gen_random_uuid(), email, role, inviter_id, create_time, expire_time
              FROM invitations WHERE id = %s"""
    with pytest.raises(Exception, match="invitations_open"):
        await sql(stores, copy, made.invitation_id)


async def test_nobody_renews_or_withdraws_what_offers_more_than_they_have(team: Team) -> None:
    made = await team.owner.orgs.CreateInvitation(invitation(team.org_id, team.outsider.email, OWNER))
    assert await outcome(invite_outsider(team, VIEWER)) == PERMISSION_MISSING
    assert await outcome(revoke_invitation(team.admin, made.invitation)) == PERMISSION_MISSING
    assert await outcome(revoke_invitation(team.owner, made.invitation)) == OK


async def removed(team: Team) -> None:
    await remove_member(team.owner, team.org_id, team.outsider)


async def left(team: Team) -> None:
    await remove_member(team.outsider, team.org_id, team.outsider)


async def suspended_then_removed(team: Team) -> None:
    await suspend(team.owner, team.org_id, team.outsider)
    await removed(team)


# What an organization had before it kept one open invitation per address, or what an administrator restores.
_PLANT = """
INSERT INTO invitations (org_id, id, email, role, inviter_id, create_time, expire_time)
VALUES (%s, %s, %s, 'admin', %s, now(), now() + interval '1 day')
"""


@pytest.mark.parametrize("lose", [removed, left, suspended_then_removed])
async def test_no_open_invitation_outlives_a_membership(lose: object, team: Team, stores: Stores) -> None:
    """Also not one that came after the acceptance, and not one to an address that the member had before."""
    made = await invite_outsider(team)
    await accept(team.outsider, made.token)
    present = "old-address-" + team.outsider.email
    rows = [
        (made.invitation.invitation_id.replace(made.invitation.invitation_id[:4], part), email)
        for part, email in (("0000", team.outsider.email), ("1111", present))
    ]
    await sql(stores, "UPDATE users SET email = %s WHERE id = %s", present, team.outsider.user_id)
    for invitation_id, email in rows:
        await sql(stores, _PLANT, team.org_id, invitation_id, email, team.owner.user_id)
    await lose(team)  # type: ignore[operator]
    states = {each.invitation_id: each.state for each in await list_invitations(team.owner, team.org_id)}
    assert [states[invitation_id] for invitation_id, _ in rows] == [pb.INVITATION_STATE_REVOKED] * 2
    assert await outcome(accept(team.outsider, made.token)) != OK
    assert not await has_access(team.outsider, team.org_id)
    await sql(stores, "UPDATE users SET email = %s WHERE id = %s", team.outsider.email, team.outsider.user_id)
    again = await invite_outsider(team)
    assert await outcome(accept(team.outsider, again.token)) == OK


async def test_an_acceptance_closes_other_invitations_of_the_person(team: Team, stores: Stores) -> None:
    made = await invite_outsider(team)
    assert await outcomes(accept(team.outsider, made.token) for _ in range(3)) == {OK: 1, INVITATION_CLOSED: 2}
    assert [
        each.state for each in await list_invitations(team.owner, team.org_id) if each.email == team.outsider.email
    ] == [pb.INVITATION_STATE_ACCEPTED]


async def test_a_member_whose_address_nobody_confirmed_is_shown_as_such(
    new_person: NewPerson, owner: Person, stores: Stores
) -> None:
    """Whoever invites an address can register it, too."""
    org_id, invited = await make_org(owner), await new_person()
    await join(owner, org_id, invited, MEMBER)

    async def shown() -> bool:
        members = (await invited.orgs.ListMembers(pb.ListMembersRequest(org_id=org_id))).members
        return bool({each.user_id: each.email_verified for each in members}[invited.user_id])

    await sql(stores, "UPDATE users SET verify_time = NULL WHERE id = %s", invited.user_id)
    assert not await shown()
    await sql(stores, "UPDATE users SET verify_time = now() WHERE id = %s", invited.user_id)
    assert await shown()
