"""Roles that an organization makes for itself: what is in them, who may make them, when they count."""

import asyncio
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace.v1 import access_pb2 as pb
from aiworkspace.v1 import org_pb2
from aiworkspace_server.auth.authority import ROLES
from tests.support.custom_roles import ALL, CUSTOM, assign, create, delete, listed, make_role, restrict, update
from tests.support.orgs import invite, list_invitations, suspend, update_org
from tests.support.outcomes import (
    ETAG_MISMATCH,
    NOT_FOUND,
    OK,
    PERMISSION_MISSING,
    REQUEST_ID_REUSED,
    ROLE_IN_USE,
    named,
    outcome,
    outcomes,
    refusal,
)
from tests.support.pagination import few, read_all
from tests.support.people import Person, make_org
from tests.support.postgres import sql
from tests.support.staff import Team
from tests.support.stores import Stores


async def states(team: Team) -> dict[str, int]:
    """The state of every invitation that was not accepted, by its address."""
    found = await list_invitations(team.owner, team.org_id)
    return {each.email: each.state for each in found if each.state != org_pb2.INVITATION_STATE_ACCEPTED}


# Making


async def test_a_new_role_is_listed_with_its_permissions_sorted(team: Team) -> None:
    made = (await create(team.admin, team.org_id, "workspace.read", "chat.read", "org.read", name="Reader")).role
    assert (made.org_id, made.name, made.etag) == (team.org_id, "Reader", "1")
    assert list(made.permissions) == ["chat.read", "org.read", "workspace.read"]
    second = (await create(team.admin, team.org_id, "org.read")).role
    assert await listed(team.viewer, team.org_id) == [made, second]
    assert await outcome(listed(team.outsider, team.org_id)) == NOT_FOUND


@pytest.mark.parametrize(
    ("who", "permissions", "missing"),
    [
        ("owner", ALL, None),
        ("admin", sorted(ROLES["admin"]), None),
        ("admin", ["org.read", "org.delete"], "org.delete"),
        ("member", ["org.read"], "role.manage"),
        ("viewer", ["org.read"], "role.manage"),
    ],
)
async def test_nobody_puts_into_a_role_what_they_lack(
    who: str, permissions: list[str], missing: str | None, team: Team
) -> None:
    refused = await refusal(create(team.somebody(who), team.org_id, *permissions))
    assert (refused and refused.metadata.get("permission")) == missing
    assert len(await listed(team.owner, team.org_id)) == (0 if missing else 1)


async def test_a_custom_role_makes_roles_of_what_it_includes(team: Team) -> None:
    await restrict(team, team.member, "role.manage", "usage.read")
    assert await outcome(create(team.member, team.org_id, "usage.read")) == OK
    assert await outcome(create(team.member, team.org_id, "usage.read", "audit.read")) == PERMISSION_MISSING


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        ({"permissions": ["org.read", "org.fly", "nothing"]}, ("permissions[1]", "permissions[2]")),
        ({"permissions": ["ORG.READ"]}, ("permissions[0]",)),
        ({"permissions": ["\U0001f511" * 100]}, ("permissions[0]",)),
        ({"permissions": [""]}, ("permissions[0]",)),
        ({"permissions": []}, ("permissions",)),
        ({"permissions": ["org.read", "org.read"]}, ("permissions",)),
        ({"permissions": ["org.read"], "name": ""}, ("name",)),
        ({"permissions": ["org.read"], "name": "a\nb"}, ("name",)),
        ({"permissions": ["org.read"], "request_id": "1"}, ("request_id",)),
    ],
)
async def test_what_breaks_a_rule_is_refused_by_name(
    values: dict[str, Any], fields: tuple[str, ...], team: Team
) -> None:
    request = pb.CreateCustomRoleRequest(**{"org_id": team.org_id, "name": "Special"} | values)
    assert await named(team.owner.access.CreateCustomRole(request)) == fields


async def test_making_again_with_the_same_request_id_gives_the_same_role(team: Team) -> None:
    request_id = str(uuid.uuid4())
    answers = await asyncio.gather(*(create(team.owner, team.org_id, "org.read", request_id=request_id) for _ in "123"))
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert len(await listed(team.owner, team.org_id)) == 1
    assert await outcome(create(team.owner, team.org_id, "chat.read", request_id=request_id)) == REQUEST_ID_REUSED


@pytest.fixture(scope="module")
async def org_with_roles(staff: dict[str, Person]) -> tuple[Person, str]:
    org_id = await make_org(staff["owner"])
    for permission in ALL[:5]:
        await make_role(staff["owner"], org_id, permission)
    return staff["owner"], org_id


@few
@given(size=st.integers(1, 6))
async def test_pages_of_roles_add_up(size: int, org_with_roles: tuple[Person, str]) -> None:
    owner, org_id = org_with_roles
    found = await read_all(owner.access.ListCustomRoles, pb.ListCustomRolesRequest(org_id=org_id), "roles", size)
    assert found == await listed(owner, org_id)
    assert [list(role.permissions) for role in found] == [[name] for name in ALL[:5]]


# Changing


async def test_a_changed_role_counts_for_all_who_have_it_from_the_next_call_on(team: Team) -> None:
    role_id = await restrict(team, team.member, "org.read", "org.update")
    await assign(team.owner, team.org_id, team.viewer, role_id=role_id)
    assert {
        await outcome(update_org(person, team.org_id, name="Renamed")) for person in (team.member, team.viewer)
    } == {OK}
    await update(team.owner, team.org_id, role_id, permissions=["org.read"])
    assert {
        await outcome(update_org(person, team.org_id, name="Renamed")) for person in (team.member, team.viewer)
    } == {PERMISSION_MISSING}
    await update(team.owner, team.org_id, role_id, permissions=["org.update"])
    assert {
        await outcome(update_org(person, team.org_id, name="Renamed")) for person in (team.member, team.viewer)
    } == {OK}


async def test_a_mask_says_what_is_changed(team: Team) -> None:
    role_id = await make_role(team.owner, team.org_id, "org.read")
    changed = (await update(team.owner, team.org_id, role_id, "name", name="New", permissions=["chat.read"])).role
    assert (changed.name, list(changed.permissions), changed.etag) == ("New", ["org.read"], "2")
    changed = (await update(team.owner, team.org_id, role_id, permissions=["usage.read", "chat.read"])).role
    assert (changed.name, list(changed.permissions), changed.etag) == ("New", ["chat.read", "usage.read"], "3")
    assert await listed(team.owner, team.org_id) == [changed]


@pytest.mark.parametrize(
    ("paths", "values", "fields"),
    [
        (["name"], {}, ("role.name",)),
        (["permissions"], {}, ("role.permissions",)),
        ([], {"permissions": ["org.read", "x"]}, ("role.permissions[1]",)),
        (["nothing"], {}, ("update_mask",)),
        ([], {"permissions": ["org.read", "org.read"]}, ("role.permissions",)),
    ],
)
async def test_a_change_that_breaks_a_rule_is_refused_by_name(
    paths: list[str], values: dict[str, Any], fields: tuple[str, ...], team: Team
) -> None:
    role_id = await make_role(team.owner, team.org_id, "org.read")
    before = await listed(team.owner, team.org_id)
    assert await named(update(team.owner, team.org_id, role_id, *paths, **values)) == fields
    assert await listed(team.owner, team.org_id) == before


async def test_of_changes_with_the_same_etag_one_counts(team: Team) -> None:
    role_id = await make_role(team.owner, team.org_id, "org.read")
    calls = [update(team.owner, team.org_id, role_id, name=f"Name {n}", etag="1") for n in range(50)]
    assert await outcomes(calls) == {OK: 1, ETAG_MISMATCH: 49}


@pytest.mark.parametrize(
    ("before", "after"), [(["org.delete"], ["org.read"]), (["org.read"], ["org.delete"])], ids=["includes", "is to"]
)
async def test_nobody_changes_a_role_beyond_their_own(before: list[str], after: list[str], team: Team) -> None:
    role_id = await make_role(team.owner, team.org_id, *before)
    refused = await refusal(update(team.admin, team.org_id, role_id, permissions=after))
    assert refused
    assert refused.metadata == {"permission": "org.delete"}
    assert await outcome(update(team.owner, team.org_id, role_id, permissions=after)) == OK


async def test_nobody_widens_their_own_role(team: Team) -> None:
    role_id = await restrict(team, team.member, "role.manage")
    for permission in ALL:
        allowed = OK if permission == "role.manage" else PERMISSION_MISSING
        assert await outcome(update(team.member, team.org_id, role_id, permissions=[permission])) == allowed


@pytest.mark.parametrize("act", ["update", "delete"])
async def test_foreign_roles_are_as_unknown_as_random_ones(act: str, team: Team) -> None:
    foreign = await make_role(team.outsider, await make_org(team.outsider), "org.read")
    calls = [
        update(team.owner, team.org_id, role_id, name="Mine")
        if act == "update"
        else delete(team.owner, team.org_id, role_id)
        for role_id in (foreign, str(uuid.uuid4()))
    ]
    one, other = [await refusal(call) for call in calls]
    assert one
    assert one == other
    assert one.code == "NOT_FOUND"


# Pending invitations


async def test_a_narrowed_role_withdraws_what_its_holders_could_no_longer_offer(team: Team) -> None:
    held = await restrict(team, team.member, "invitation.manage", "usage.read", "chat.read")
    offers = {name: await make_role(team.owner, team.org_id, name) for name in ("usage.read", "chat.read")}
    for name, role_id in offers.items():
        await invite(team.member, team.org_id, f"{name}@example.com", CUSTOM, role_id)
        await invite(team.admin, team.org_id, f"admin.{name}@example.com", CUSTOM, role_id)
    await update(team.owner, team.org_id, held, permissions=["invitation.manage", "chat.read"])
    pending, revoked = org_pb2.INVITATION_STATE_PENDING, org_pb2.INVITATION_STATE_REVOKED
    assert await states(team) == {
        "usage.read@example.com": revoked,
        "chat.read@example.com": pending,
        "admin.usage.read@example.com": pending,
        "admin.chat.read@example.com": pending,
    }
    await update(team.owner, team.org_id, held, permissions=["chat.read"])
    assert (await states(team))["chat.read@example.com"] == revoked


async def test_a_widened_role_withdraws_the_offers_of_who_lacks_what_it_includes_now(team: Team) -> None:
    await restrict(team, team.member, "invitation.manage", "usage.read")
    offered = await make_role(team.owner, team.org_id, "usage.read")
    mine = await invite(team.member, team.org_id, team.outsider.email, CUSTOM, offered)
    await invite(team.admin, team.org_id, "admins@example.com", CUSTOM, offered)
    await update(team.owner, team.org_id, offered, permissions=["usage.read", "audit.read"])
    pending, revoked = org_pb2.INVITATION_STATE_PENDING, org_pb2.INVITATION_STATE_REVOKED
    assert await states(team) == {team.outsider.email: revoked, "admins@example.com": pending}
    accepting = team.outsider.orgs.AcceptInvitation(org_pb2.AcceptInvitationRequest(token=mine.token))
    assert await outcome(accepting) == "FAILED_PRECONDITION INVITATION_CLOSED"


async def test_an_invitation_gives_the_role_as_it_is_when_accepted(team: Team) -> None:
    role_id = await make_role(team.owner, team.org_id, "org.read", "org.update")
    invited = await invite(team.owner, team.org_id, team.outsider.email, CUSTOM, role_id)
    await update(team.owner, team.org_id, role_id, permissions=["org.read"])
    org = (await team.outsider.orgs.AcceptInvitation(org_pb2.AcceptInvitationRequest(token=invited.token))).org
    assert (org.role, org.custom_role_id) == (CUSTOM, role_id)
    assert await outcome(update_org(team.outsider, team.org_id, name="Renamed")) == PERMISSION_MISSING


# Deleting


async def test_a_deleted_role_is_gone(team: Team) -> None:
    role_id = await make_role(team.owner, team.org_id, "org.read")
    assert await outcomes(delete(team.owner, team.org_id, role_id) for _ in range(20)) == {OK: 1, NOT_FOUND: 19}
    assert await listed(team.owner, team.org_id) == []
    assert await outcome(assign(team.owner, team.org_id, team.viewer, role_id=role_id)) == NOT_FOUND


async def test_nobody_deletes_a_role_that_includes_what_they_lack(team: Team) -> None:
    role_id = await make_role(team.owner, team.org_id, "org.delete")
    assert await outcome(delete(team.admin, team.org_id, role_id)) == PERMISSION_MISSING
    assert await outcome(delete(team.owner, team.org_id, role_id)) == OK


async def test_a_role_that_a_member_has_stays(team: Team) -> None:
    role_id = await restrict(team, team.member, "org.read")
    assert await outcome(delete(team.owner, team.org_id, role_id)) == ROLE_IN_USE
    await suspend(team.owner, team.org_id, team.member)
    assert await outcome(delete(team.owner, team.org_id, role_id)) == ROLE_IN_USE
    await assign(team.owner, team.org_id, team.member, org_pb2.ROLE_VIEWER)
    assert await outcome(delete(team.owner, team.org_id, role_id)) == OK


@pytest.mark.parametrize(
    "end", ["revoke_time = now()", "expire_time = now() - interval '61 s'"], ids=["revoked", "expired"]
)
async def test_a_role_that_an_invitation_offers_stays_until_that_has_ended(
    end: str, team: Team, stores: Stores
) -> None:
    role_id = await make_role(team.owner, team.org_id, "org.read")
    invited = (await invite(team.admin, team.org_id, "somebody@example.com", CUSTOM, role_id)).invitation
    assert await outcome(delete(team.owner, team.org_id, role_id)) == ROLE_IN_USE
    await sql(stores, f"UPDATE invitations SET {end} WHERE id = %s", invited.invitation_id)
    assert await outcome(delete(team.owner, team.org_id, role_id)) == OK
    change = assign(team.owner, team.org_id, team.admin, org_pb2.ROLE_VIEWER)
    assert await outcome(change) == OK, "an invitation to what is gone stands in nobody's way"


async def test_a_role_is_not_deleted_under_who_gets_it(team: Team) -> None:
    for _ in range(5):
        role_id = await make_role(team.owner, team.org_id, "org.read")
        people = [team.admin, team.member, team.viewer]
        given = [assign(team.owner, team.org_id, people[n % 3], role_id=role_id) for n in range(24)]
        invited = [invite(team.owner, team.org_id, f"{n}-{role_id}@example.com", CUSTOM, role_id) for n in range(24)]
        deleted = [delete(team.owner, team.org_id, role_id) for _ in range(2)]
        results = await outcomes([*given[:6], *invited[:6], *deleted, *given[6:], *invited[6:]])
        assert results.keys() <= {OK, NOT_FOUND, ROLE_IN_USE}
        left = [role for role in await listed(team.owner, team.org_id) if role.custom_role_id == role_id]
        gone = results.get(NOT_FOUND, 0) > 0
        assert len(left) == (0 if gone else 1)
        assert (ROLE_IN_USE in results) != gone
