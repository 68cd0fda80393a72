"""API keys: made, shown once, listed, rotated, revoked."""

import asyncio
import hashlib
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from aiworkspace.v1 import org_pb2
from aiworkspace.v1 import service_account_pb2 as pb
from aiworkspace_server.auth.api_keys import is_key
from tests.support.accounts import get_me
from tests.support.outcomes import (
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
from tests.support.people import Person, make_org, make_workspace
from tests.support.postgres import sql
from tests.support.service_accounts import (
    EVERY,
    OF_ADMINS,
    NewBackend,
    key_request,
    make_account,
    make_key,
    revoke_key,
    rotate_key,
)
from tests.support.staff import Team
from tests.support.stores import Stores

KEY_ENDED = "FAILED_PRECONDITION API_KEY_ENDED"
HOUR = timedelta(hours=1)


def moment(time: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


async def listed(person: Person, org_id: str, user_id: str = "", size: int = 50) -> list[pb.ApiKey]:
    request = pb.ListApiKeysRequest(org_id=org_id, user_id=user_id)
    return await read_all(person.service_accounts.ListApiKeys, request, "api_keys", size)


async def test_a_key_is_shown_once_and_stored_as_its_hash(team: Team, stores: Stores) -> None:
    user_id = await make_account(team.owner, team.org_id)
    request = key_request(team.org_id, user_id, ["chat.send", "chat.read"], request_id=str(uuid.uuid4()))
    made = await team.admin.service_accounts.CreateApiKey(request)
    key = made.api_key
    assert is_key(made.secret)
    assert made.secret.startswith(key.prefix)
    assert (len(key.prefix), list(key.permissions)) == (len("aiws_") + 8, ["chat.read", "chat.send"])
    assert (key.user_id, key.creator_id, key.state) == (user_id, team.admin.user_id, pb.API_KEY_STATE_ACTIVE)
    assert not key.HasField("expire_time")
    again = await team.admin.service_accounts.CreateApiKey(request)
    assert (again.secret, again.api_key) == ("", key)
    assert await listed(team.admin, team.org_id) == [key]
    [(stored,)] = await sql(stores, "SELECT secret_hash FROM api_keys WHERE id = %s", key.api_key_id)
    assert stored == hashlib.sha256(made.secret.encode()).digest()


async def test_fifty_repeats_make_one_key_and_one_caller_sees_it(team: Team) -> None:
    user_id = await make_account(team.owner, team.org_id)
    request = key_request(team.org_id, user_id, request_id=str(uuid.uuid4()))
    answers = await asyncio.gather(*(team.owner.service_accounts.CreateApiKey(request) for _ in range(50)))
    assert len({answer.api_key.api_key_id for answer in answers}) == 1
    assert len([answer for answer in answers if answer.secret]) == 1
    assert len(await listed(team.owner, team.org_id)) == 1
    request.name = "other"
    assert await outcome(team.owner.service_accounts.CreateApiKey(request)) == REQUEST_ID_REUSED


@pytest.mark.parametrize("role", ["member", "viewer", "outsider"])
async def test_only_owners_and_admins_have_to_do_with_keys(team: Team, role: str) -> None:
    person, user_id = team.somebody(role), await make_account(team.owner, team.org_id)
    key = (await make_key(team.owner, team.org_id, user_id)).api_key
    found = {
        await outcome(make_key(person, team.org_id, user_id, ["chat.read"])),
        await outcome(listed(person, team.org_id)),
        await outcome(rotate_key(person, key)),
        await outcome(revoke_key(person, key)),
    }
    assert found == {NOT_FOUND if role == "outsider" else PERMISSION_MISSING}
    assert await listed(team.owner, team.org_id) == [key]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"permissions": ["chat.read", "chat.sing"]}, ("permissions[1]",)),
        ({"permissions": ["", "CHAT.READ", "chat.read "]}, ("permissions[0]", "permissions[1]", "permissions[2]")),
        ({"permissions": []}, ("permissions",)),
        ({"permissions": ["chat.read", "chat.read"]}, ("permissions",)),
        ({"name": ""}, ("name",)),
        ({"name": "a\nb"}, ("name",)),
        ({"workspace_ids": ["1"]}, ("workspace_ids[0]",)),
        pytest.param(
            {"expire_time": moment(datetime.now(UTC) - timedelta(seconds=1))}, ("expire_time",), id="a moment ago"
        ),
        ({"expire_time": Timestamp()}, ("expire_time",)),
        ({"expire_time": Timestamp(seconds=-(2**60))}, ("expire_time",)),
        ({"expire_time": Timestamp(seconds=2**60)}, ("expire_time",)),
    ],
    ids=str,
)
async def test_wrong_input_is_named(team: Team, fields: dict[str, Any], wrong: tuple[str, ...]) -> None:
    user_id = await make_account(team.owner, team.org_id)
    request = key_request(team.org_id, user_id, **{"permissions": ["chat.read"]} | fields)
    assert await named(team.owner.service_accounts.CreateApiKey(request)) == wrong
    assert await listed(team.owner, team.org_id) == []


async def test_people_and_unknown_accounts_get_no_keys(team: Team, staff: dict[str, Person]) -> None:
    foreign = await make_account(staff["outsider"], await make_org(staff["outsider"]))
    nobody = [team.member.user_id, team.owner.user_id, foreign, str(uuid.uuid4())]
    refused = {await refusal(make_key(team.owner, team.org_id, user_id)) for user_id in nobody}
    assert [each.code if each else OK for each in refused] == ["NOT_FOUND"]


async def test_foreign_keys_are_as_unknown_as_random_ones(team: Team, staff: dict[str, Person]) -> None:
    org_id = await make_org(staff["outsider"])
    foreign = (await make_key(staff["outsider"], org_id, await make_account(staff["outsider"], org_id))).api_key
    unknown = pb.ApiKey(org_id=team.org_id, api_key_id=str(uuid.uuid4()))
    foreign.org_id = team.org_id
    for call in (rotate_key, revoke_key):
        refused = {await refusal(call(team.owner, key)) for key in (foreign, unknown)}
        assert [each.code if each else OK for each in refused] == ["NOT_FOUND"]
    assert await listed(team.owner, team.org_id, user_id=foreign.user_id) == []
    assert [key.state for key in await listed(staff["outsider"], org_id)] == [pb.API_KEY_STATE_ACTIVE]


async def test_lists_have_the_latest_first_and_can_be_of_one_account(team: Team) -> None:
    accounts = [await make_account(team.owner, team.org_id) for _ in range(2)]
    workspace_ids = sorted([await make_workspace(team.owner, team.org_id) for _ in range(2)], reverse=True)
    limited = {"permissions": ["chat.read"], "workspace_ids": workspace_ids}
    made = [(await make_key(team.owner, team.org_id, user_id, **limited)).api_key for user_id in accounts * 2]
    assert list(made[0].workspace_ids) == sorted(workspace_ids)
    for size in (1, 3, 50):
        assert await listed(team.admin, team.org_id, size=size) == made[::-1]
    assert await listed(team.admin, team.org_id, accounts[0]) == [made[2], made[0]]
    assert await listed(team.admin, team.org_id, str(uuid.uuid4())) == []


async def test_a_key_ends_when_it_expires(team: Team, new_backend: NewBackend, stores: Stores) -> None:
    user_id = await make_account(team.owner, team.org_id)
    made = await make_key(team.owner, team.org_id, user_id, expire_time=moment(datetime.now(UTC) + HOUR))
    backend = new_backend(made.secret)
    assert await outcome(get_me(backend)) == OK
    await sql(stores, "UPDATE api_keys SET expire_time = now() WHERE id = %s", made.api_key.api_key_id)
    await asyncio.sleep(1.1)
    assert await outcome(get_me(backend)) == UNAUTHENTICATED
    assert [key.state for key in await listed(team.owner, team.org_id)] == [pb.API_KEY_STATE_EXPIRED]


async def test_revoking_counts_from_the_next_call_and_can_be_repeated(team: Team, new_backend: NewBackend) -> None:
    user_id = await make_account(team.owner, team.org_id)
    made, other = [await make_key(team.owner, team.org_id, user_id) for _ in range(2)]
    backend, colleague = new_backend(made.secret), new_backend(other.secret)
    assert await outcome(get_me(backend)) == OK
    first = (await revoke_key(team.admin, made.api_key)).api_key
    assert first.state == pb.API_KEY_STATE_REVOKED
    assert await outcome(get_me(backend)) == UNAUTHENTICATED
    assert await outcome(get_me(colleague)) == OK
    assert (await revoke_key(team.admin, made.api_key)).api_key == first
    assert await outcome(rotate_key(team.admin, made.api_key)) == KEY_ENDED


async def test_rotating_leaves_the_old_key_a_while(team: Team, new_backend: NewBackend, stores: Stores) -> None:
    user_id = await make_account(team.owner, team.org_id)
    workspace_ids = [await make_workspace(team.owner, team.org_id)]
    made = await make_key(team.owner, team.org_id, user_id, ["chat.read", "org.read"], workspace_ids=workspace_ids)
    before = datetime.now(UTC)
    rotated = await rotate_key(team.admin, made.api_key, overlap_seconds=3600, expire_time=moment(before + 24 * HOUR))
    old, new = made.api_key, rotated.api_key
    assert (new.permissions, new.workspace_ids, new.name) == (old.permissions, old.workspace_ids, old.name)
    assert (new.user_id, new.creator_id) == (user_id, team.admin.user_id)
    assert new.expire_time == moment(before + 24 * HOUR)
    assert await outcome(get_me(new_backend(made.secret))) == await outcome(get_me(new_backend(rotated.secret))) == OK
    left = {key.api_key_id: key for key in await listed(team.owner, team.org_id)}[old.api_key_id]
    assert abs(left.expire_time.ToDatetime(UTC) - before - HOUR) < timedelta(seconds=30)
    await sql(stores, "UPDATE api_keys SET expire_time = now() WHERE id = %s", old.api_key_id)
    await asyncio.sleep(1.1)
    assert await outcome(get_me(new_backend(made.secret))) == UNAUTHENTICATED
    assert await outcome(rotate_key(team.admin, old)) == KEY_ENDED


async def test_rotating_never_lengthens_the_life_of_the_old_key(team: Team) -> None:
    user_id, end = await make_account(team.owner, team.org_id), moment(datetime.now(UTC) + HOUR)
    made = await make_key(team.owner, team.org_id, user_id, expire_time=end)
    rotated = await rotate_key(team.owner, made.api_key, overlap_seconds=7200)
    ends = [key.expire_time.ToDatetime(UTC) for key in (made.api_key, rotated.api_key)]
    assert timedelta(0) < ends[1] - ends[0] < timedelta(seconds=30), "the new one lasts as long as the old one was to"
    left = {key.api_key_id: key for key in await listed(team.owner, team.org_id)}
    assert left[made.api_key.api_key_id].expire_time == end


async def test_without_overlap_the_old_key_ends_at_once(team: Team, new_backend: NewBackend) -> None:
    made = await make_key(team.owner, team.org_id, await make_account(team.owner, team.org_id))
    backend = new_backend(made.secret)
    assert await outcome(get_me(backend)) == OK
    rotated = await rotate_key(team.owner, made.api_key)
    assert await outcome(get_me(backend)) == UNAUTHENTICATED
    assert await outcome(get_me(new_backend(rotated.secret))) == OK


@pytest.mark.parametrize("overlap", [-1, 30 * 86400 + 1])
async def test_the_overlap_has_limits(team: Team, overlap: int) -> None:
    made = await make_key(team.owner, team.org_id, await make_account(team.owner, team.org_id))
    assert await named(rotate_key(team.owner, made.api_key, overlap_seconds=overlap)) == ("overlap_seconds",)
    past = moment(datetime.now(UTC) - HOUR)
    assert await named(rotate_key(team.owner, made.api_key, expire_time=past)) == ("expire_time",)


async def test_fifty_rotations_with_one_request_id_make_one_key(team: Team, new_backend: NewBackend) -> None:
    made = await make_key(team.owner, team.org_id, await make_account(team.owner, team.org_id))
    once = str(uuid.uuid4())
    answers = await asyncio.gather(*(rotate_key(team.owner, made.api_key, request_id=once) for _ in range(50)))
    assert len({answer.api_key.api_key_id for answer in answers}) == 1
    [secret] = [answer.secret for answer in answers if answer.secret]
    assert await outcome(get_me(new_backend(secret))) == OK
    assert len(await listed(team.owner, team.org_id)) == 2
    assert (await rotate_key(team.owner, made.api_key, request_id=once)).secret == ""


async def test_fifty_rotations_at_once_end_the_old_key_once(team: Team) -> None:
    made = await make_key(team.owner, team.org_id, await make_account(team.owner, team.org_id))
    found = await outcomes(rotate_key(team.owner, made.api_key) for _ in range(50))
    assert found == {OK: 1, KEY_ENDED: 49}
    assert len(await listed(team.owner, team.org_id)) == 2


async def test_rotation_and_revocation_at_once_leave_the_old_key_revoked(team: Team, new_backend: NewBackend) -> None:
    for _ in range(10):
        user_id = await make_account(team.owner, team.org_id)
        made = await make_key(team.owner, team.org_id, user_id)
        rotated, _ = await asyncio.gather(
            outcome(rotate_key(team.owner, made.api_key, overlap_seconds=60)), revoke_key(team.admin, made.api_key)
        )
        assert await outcome(get_me(new_backend(made.secret))) == UNAUTHENTICATED
        left = await listed(team.owner, team.org_id, user_id)
        assert (rotated, len(left)) in ((OK, 2), (KEY_ENDED, 1))
        states = {key.api_key_id: key.state for key in left}
        assert states.pop(made.api_key.api_key_id) == pb.API_KEY_STATE_REVOKED
        assert set(states.values()) <= {pb.API_KEY_STATE_ACTIVE}


async def test_a_key_outlives_who_made_it(team: Team, new_backend: NewBackend) -> None:
    """It belongs to the account, whose role is what counts from then on."""
    made = await make_key(team.admin, team.org_id, await make_account(team.owner, team.org_id))
    request = org_pb2.RemoveMemberRequest(org_id=team.org_id, user_id=team.admin.user_id)
    await team.owner.orgs.RemoveMember(request)
    assert await outcome(get_me(new_backend(made.secret))) == OK


async def test_permissions_that_the_account_lacks_stay_without_effect(team: Team, new_backend: NewBackend) -> None:
    user_id = await make_account(team.owner, team.org_id, role=org_pb2.ROLE_VIEWER)
    backend = new_backend((await make_key(team.owner, team.org_id, user_id, EVERY)).secret)
    assert await outcome(make_workspace(backend, team.org_id)) == PERMISSION_MISSING
    member = org_pb2.Member(org_id=team.org_id, user_id=user_id, role=org_pb2.ROLE_MEMBER)
    request = org_pb2.UpdateMemberRequest(member=member, update_mask=FieldMask(paths=["role"]))
    await team.owner.orgs.UpdateMember(request)
    assert await outcome(make_workspace(backend, team.org_id)) == OK
    assert await outcome(make_key(backend, team.org_id, user_id, OF_ADMINS)) == PERMISSION_MISSING
