"""Suspension: access that is taken away until it is given back, and an owner that stays."""

from collections.abc import Callable
from typing import Any

import pytest

from aiworkspace.v1 import chat_pb2, workspace_pb2
from aiworkspace.v1 import org_pb2 as pb
from tests.support.custom_roles import ALL, assign, make_role, restrict
from tests.support.orgs import accept, get_org, invite, list_members, reinstate, remove_member, suspend
from tests.support.outcomes import (
    ALREADY_EXISTS,
    INVITATION_CLOSED,
    LAST_OWNER,
    NOT_FOUND,
    OK,
    PERMISSION_MISSING,
    UNAUTHENTICATED,
    named,
    outcome,
    outcomes,
    refusal,
)
from tests.support.people import Person, join, make_conversation, make_workspace
from tests.support.postgres import sql
from tests.support.service_accounts import insert_account
from tests.support.staff import ADMIN, MEMBER, OWNER, VIEWER, Team
from tests.support.stores import Stores

ACTIVE, SUSPENDED = pb.MEMBER_STATE_ACTIVE, pb.MEMBER_STATE_SUSPENDED


async def member_of(team: Team, person: Person) -> pb.Member:
    """As somebody who is still there sees it."""
    for by in (team.owner, team.admin, team.member, team.viewer):
        if await outcome(get_org(by, team.org_id)) == OK:
            members = await list_members(by, team.org_id)
            return next(each for each in members if each.user_id == person.user_id)
    raise AssertionError("nobody is left")


async def active_owners(stores: Stores, org_id: str) -> int:
    count = "SELECT count(*) FROM memberships WHERE org_id = %s AND role = 'owner' AND suspend_time IS NULL"
    return int((await sql(stores, count, org_id))[0][0])


# What it takes and gives back


async def test_for_a_suspended_member_the_organization_does_not_exist(team: Team) -> None:
    workspace_id = await make_workspace(team.member, team.org_id)
    conversation_id = await make_conversation(team.member, workspace_id)
    calls: dict[str, Callable[[], Any]] = {
        "org": lambda: get_org(team.member, team.org_id),
        "members": lambda: team.member.orgs.ListMembers(pb.ListMembersRequest(org_id=team.org_id)),
        "leave": lambda: remove_member(team.member, team.org_id, team.member),
        "workspace": lambda: team.member.workspaces.GetWorkspace(
            workspace_pb2.GetWorkspaceRequest(workspace_id=workspace_id)
        ),
        "conversation": lambda: team.member.chat.GetConversation(
            chat_pb2.GetConversationRequest(conversation_id=conversation_id)
        ),
    }
    for name in ("org", "workspace", "conversation"):
        assert await outcome(calls[name]()) == OK
    suspended = (await suspend(team.admin, team.org_id, team.member)).member
    assert (suspended.state, suspended.role, suspended.etag) == (SUSPENDED, MEMBER, "2")
    assert {name: await outcome(call()) for name, call in calls.items()} == dict.fromkeys(calls, NOT_FOUND)
    assert team.org_id not in {
        org.org_id for org in (await team.member.orgs.ListOrgs(pb.ListOrgsRequest(page_size=1000))).orgs
    }
    reinstated = (await reinstate(team.admin, team.org_id, team.member)).member
    assert (reinstated.state, reinstated.role, reinstated.etag) == (ACTIVE, MEMBER, "3")
    for name in ("org", "workspace", "conversation"):
        assert await outcome(calls[name]()) == OK, "who is reinstated is let in at once, to what was theirs"


async def test_a_suspended_members_id_is_as_unknown_as_nobodys(team: Team) -> None:
    await suspend(team.owner, team.org_id, team.member)
    suspended, outside = (
        await refusal(get_org(team.member, team.org_id)),
        await refusal(get_org(team.outsider, team.org_id)),
    )
    assert suspended == outside


async def test_the_rest_of_the_account_goes_on(team: Team) -> None:
    await suspend(team.owner, team.org_id, team.member)
    own = (await team.member.orgs.CreateOrg(pb.CreateOrgRequest(name="Mine"))).org
    assert await outcome(get_org(team.member, own.org_id)) == OK


async def test_the_keys_of_a_suspended_service_account_do_not_work(
    team: Team, stranger: Person, stores: Stores
) -> None:
    await insert_account(stores, team.org_id, "admin", stranger, *ALL)
    assert await outcome(get_org(stranger, team.org_id)) == OK
    assert (await member_of(team, stranger)).kind == pb.MEMBER_KIND_SERVICE_ACCOUNT
    await suspend(team.admin, team.org_id, stranger)
    assert await outcome(get_org(stranger, team.org_id)) == UNAUTHENTICATED
    await reinstate(team.admin, team.org_id, stranger)
    assert await outcome(get_org(stranger, team.org_id)) == OK


async def test_suspending_and_reinstating_again_change_nothing(team: Team) -> None:
    first = [(await suspend(team.admin, team.org_id, team.member)).member for _ in range(2)]
    assert first[0] == first[1]
    second = [(await reinstate(team.admin, team.org_id, team.member)).member for _ in range(2)]
    assert second[0] == second[1]
    assert await outcomes(suspend(team.admin, team.org_id, team.member) for _ in range(50)) == {OK: 50}
    assert (await member_of(team, team.member)).etag == "4"


# Who may


@pytest.mark.parametrize(
    ("who", "whom", "expected"),
    [
        ("viewer", "member", PERMISSION_MISSING),
        ("member", "viewer", PERMISSION_MISSING),
        ("outsider", "viewer", NOT_FOUND),
        ("admin", "viewer", OK),
        ("admin", "owner", PERMISSION_MISSING),
        ("owner", "admin", OK),
        ("owner", "outsider", NOT_FOUND),
    ],
)
async def test_who_may_suspend_and_reinstate_whom(
    who: str, whom: str, expected: str, team: Team, stores: Stores
) -> None:
    by, person = team.somebody(who), team.somebody(whom)
    assert await outcome(suspend(by, team.org_id, person)) == expected
    if expected == PERMISSION_MISSING:
        await sql(stores, "UPDATE memberships SET suspend_time = now() WHERE user_id = %s", person.user_id)
    assert await outcome(reinstate(by, team.org_id, person)) == expected
    await sql(stores, "UPDATE memberships SET suspend_time = NULL WHERE org_id = %s", team.org_id)


async def test_nobody_suspends_themselves(team: Team, stranger: Person, stores: Stores) -> None:
    assert await named(suspend(team.admin, team.org_id, team.admin)) == ("user_id",)
    await insert_account(stores, team.org_id, "admin", stranger, *ALL)
    assert await named(suspend(stranger, team.org_id, stranger)) == ("user_id",)
    assert (await member_of(team, team.admin)).state == ACTIVE


async def test_a_key_suspends_nobody_with_more_than_its_scopes(team: Team, stranger: Person, stores: Stores) -> None:
    await insert_account(stores, team.org_id, "admin", stranger, "member.manage", "org.read", "member.read")
    assert await outcome(suspend(stranger, team.org_id, team.viewer)) == PERMISSION_MISSING
    await restrict(team, team.viewer, "org.read")
    assert await outcome(suspend(stranger, team.org_id, team.viewer)) == OK


# Owners


async def test_the_last_owner_is_not_suspended(team: Team) -> None:
    await restrict(team, team.admin, *ALL)
    assert await outcome(suspend(team.admin, team.org_id, team.owner)) == LAST_OWNER
    assert await outcome(remove_member(team.admin, team.org_id, team.owner)) == LAST_OWNER
    assert await outcome(assign(team.admin, team.org_id, team.owner, VIEWER)) == LAST_OWNER


async def test_a_suspended_owner_does_not_count(team: Team, stores: Stores) -> None:
    await assign(team.owner, team.org_id, team.admin, OWNER)
    await suspend(team.owner, team.org_id, team.admin)
    assert await outcome(remove_member(team.owner, team.org_id, team.owner)) == LAST_OWNER
    assert await outcome(assign(team.owner, team.org_id, team.owner, VIEWER)) == LAST_OWNER
    assert await outcome(assign(team.owner, team.org_id, team.admin, VIEWER)) == OK, "not the last one that counts"
    assert await active_owners(stores, team.org_id) == 1


async def test_a_suspended_owner_may_be_removed(team: Team) -> None:
    await assign(team.owner, team.org_id, team.admin, OWNER)
    await suspend(team.owner, team.org_id, team.admin)
    assert await outcome(remove_member(team.owner, team.org_id, team.admin)) == OK


async def test_who_holds_all_permissions_is_no_owner(team: Team, stores: Stores) -> None:
    await restrict(team, team.admin, *ALL)
    assert await outcome(remove_member(team.owner, team.org_id, team.owner)) == LAST_OWNER
    assert await active_owners(stores, team.org_id) == 1


@pytest.mark.parametrize("act", ["suspend", "demote", "remove", "all"])
async def test_fifty_who_unmake_owners_at_once_leave_one(act: str, team: Team, stores: Stores) -> None:
    for person in (team.admin, team.member, team.viewer):
        await assign(team.owner, team.org_id, person, OWNER)
    owners = [team.owner, team.admin, team.member, team.viewer]
    acts: dict[str, Callable[[Person, Person], Any]] = {
        "suspend": lambda by, person: suspend(by, team.org_id, person),
        "demote": lambda by, person: assign(by, team.org_id, person, VIEWER),
        "remove": lambda by, person: remove_member(by, team.org_id, person),
    }
    chosen = list(acts.values()) if act == "all" else [acts[act]]
    results = await outcomes(chosen[n % len(chosen)](owners[n % 4], owners[n // 4 % 4]) for n in range(50))
    assert results.get("INTERNAL INTERNAL") is None
    assert await active_owners(stores, team.org_id) == 1


async def test_owners_who_suspend_each_other_leave_one(team: Team, stores: Stores) -> None:
    for _ in range(10):
        await assign(team.owner, team.org_id, team.admin, OWNER)
        calls = suspend(team.owner, team.org_id, team.admin), suspend(team.admin, team.org_id, team.owner)
        assert (await outcomes(calls))[OK] == 1
        assert await active_owners(stores, team.org_id) == 1
        await sql(stores, "UPDATE memberships SET suspend_time = NULL WHERE org_id = %s", team.org_id)


# Invitations


async def test_suspension_withdraws_what_the_member_offered(team: Team) -> None:
    made = await invite(team.admin, team.org_id, team.outsider.email)
    await suspend(team.owner, team.org_id, team.admin)
    assert await outcome(accept(team.outsider, made.token)) == INVITATION_CLOSED
    await reinstate(team.owner, team.org_id, team.admin)
    assert await outcome(accept(team.outsider, made.token)) == INVITATION_CLOSED, "what was withdrawn stays so"


async def test_no_invitation_leads_round_a_suspension(team: Team) -> None:
    early = await invite(team.admin, team.org_id, team.outsider.email)
    late = await invite(team.admin, team.org_id, team.outsider.email)
    await accept(team.outsider, early.token)
    await suspend(team.owner, team.org_id, team.outsider)
    assert await outcome(accept(team.outsider, late.token)) == INVITATION_CLOSED
    assert await outcome(get_org(team.outsider, team.org_id)) == NOT_FOUND
    assert await outcome(invite(team.admin, team.org_id, team.outsider.email)) == ALREADY_EXISTS


# With other changes


async def test_a_suspended_member_can_be_removed_and_comes_back_active(team: Team) -> None:
    await suspend(team.owner, team.org_id, team.member)
    assert await outcome(remove_member(team.admin, team.org_id, team.member)) == OK
    await join(team.owner, team.org_id, team.member, VIEWER)
    assert (await member_of(team, team.member)).state == ACTIVE


async def test_a_role_given_meanwhile_counts_after_the_reinstatement(team: Team) -> None:
    await suspend(team.owner, team.org_id, team.member)
    await assign(team.owner, team.org_id, team.member, ADMIN)
    assert await outcome(get_org(team.member, team.org_id)) == NOT_FOUND
    await reinstate(team.owner, team.org_id, team.member)
    assert (await get_org(team.member, team.org_id)).role == ADMIN


async def test_nobody_gives_a_suspended_member_back_more_than_they_hold(team: Team) -> None:
    role_id = await make_role(team.owner, team.org_id, "org.delete")
    await suspend(team.owner, team.org_id, team.member)
    await assign(team.owner, team.org_id, team.member, role_id=role_id)
    assert await outcome(reinstate(team.admin, team.org_id, team.member)) == PERMISSION_MISSING
    assert await outcome(reinstate(team.owner, team.org_id, team.member)) == OK


async def test_who_leaves_while_being_suspended_does_not_come_back(team: Team) -> None:
    for _ in range(10):
        calls = suspend(team.admin, team.org_id, team.member), remove_member(team.member, team.org_id, team.member)
        results = await outcomes(calls)
        assert results in ({OK: 1, NOT_FOUND: 1},)
        if await outcome(reinstate(team.admin, team.org_id, team.member)) == NOT_FOUND:
            await join(team.owner, team.org_id, team.member, MEMBER)
