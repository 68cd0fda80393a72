"""Every method takes API keys within their scopes: the whole surface by reflection."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from aiworkspace.v1 import options_pb2 as options
from aiworkspace.v1 import org_pb2
from aiworkspace.v1 import service_account_pb2 as pb
from tests.support.belongings import keep_documents
from tests.support.documents import begin
from tests.support.orgs import delete_org
from tests.support.people import Person, join, make_conversation, make_org, make_workspace
from tests.support.postgres import sql
from tests.support.runs import say
from tests.support.service_accounts import (
    EVERY,
    OF_WORKSPACES,
    NewBackend,
    make_account,
    make_custom_role,
    make_key,
    revoke_key,
    rotate_key,
)
from tests.support.staff import VIEWER
from tests.support.stores import Stores
from tests.support.surface import CLOSED, Endpoint, Outcome, id_fields, name_of, names_documents, put, random_id

# An operator is a person with a session, too.
_OF_SESSIONS = options.ACCESS_MODE_SESSION, options.ACCESS_MODE_OPERATOR
SESSIONS = [endpoint for endpoint in CLOSED if endpoint.access.mode in _OF_SESSIONS]
SCOPED = [endpoint for endpoint in CLOSED if endpoint.access.mode == options.ACCESS_MODE_PERMISSION]
OPEN_TO_KEYS = [endpoint for endpoint in CLOSED if endpoint not in SESSIONS]
IN_WORKSPACES = [endpoint for endpoint in SCOPED if endpoint.access.scope.rpartition(".")[2] != "org_id"]


@dataclass(frozen=True)
class World:
    """An organization, and a caller with every permission in it with a conversation, an answer and documents."""

    owner: Person
    caller: Person
    account_id: str
    ids: Mapping[str, str]

    def request(self, endpoint: Endpoint, **ids: str) -> Any:
        """A request about what the caller has; what it has nothing of is a random id."""
        known = {**self.ids, **ids}
        request = endpoint.request(known)
        for path in id_fields(endpoint.descriptor.input_type):
            if path.rpartition(".")[2] not in known:
                put(request, path, UNKNOWN)
        return request


UNKNOWN = random_id()


async def make_world(
    owner: Person, member: Person, stores: Stores, new_backend: NewBackend | None, *, documents: bool = True
) -> World:
    """The caller is a backend or, without one, the owner. Documents take longer than all else."""
    org_id = await make_org(owner)
    await join(owner, org_id, member, VIEWER)
    role_id = await make_custom_role(stores, org_id, EVERY)
    account_id = await make_account(owner, org_id, role=org_pb2.ROLE_CUSTOM, custom_role_id=role_id)
    made = await make_key(owner, org_id, account_id, EVERY)
    caller = new_backend(made.secret) if new_backend else owner
    spare = await make_account(owner, org_id, role=VIEWER)
    key = await make_key(owner, org_id, spare, ["chat.read"])
    workspace_id = await make_workspace(owner, org_id)
    conversation_id = await make_conversation(caller, workspace_id)
    events = await say(caller, conversation_id, "hello")
    ids = {"org_id": org_id, "workspace_id": workspace_id, "conversation_id": conversation_id}
    if documents:
        ids |= await keep_documents(caller, workspace_id)
        ids["upload_id"] = await begin(caller, workspace_id, b"on its way")
    ids |= {"run_id": events[0].run_id, "user_id": member.user_id, "api_key_id": key.api_key.api_key_id}
    return World(owner, caller, account_id, ids)


@pytest.fixture(scope="session")
async def world(staff: dict[str, Person], stores: Stores, new_backend: NewBackend) -> World:
    """One that no test changes."""
    return await make_world(staff["owner"], staff["member"], stores, new_backend)


@pytest.fixture(scope="session")
async def persons_world(staff: dict[str, Person], stores: Stores) -> World:
    """The same for a person. No test changes it either."""
    return await make_world(staff["owner"], staff["member"], stores, None)


def reason_of(outcome: Outcome) -> tuple[str, Mapping[str, str]]:
    info = error_details_pb2.ErrorInfo()
    for detail in status_pb2.Status.FromString(outcome.details).details[:1]:
        detail.Unpack(info)
    return info.reason, dict(info.metadata)


@pytest.mark.parametrize("endpoint", SESSIONS, ids=name_of)
async def test_what_needs_a_session_refuses_keys(endpoint: Endpoint, world: World) -> None:
    outcome = await endpoint.call(world.caller, world.request(endpoint))
    assert (outcome.code, reason_of(outcome)[0]) == (grpc.StatusCode.PERMISSION_DENIED, "SESSION_REQUIRED")


@pytest.mark.parametrize("endpoint", OPEN_TO_KEYS, ids=name_of)
async def test_all_else_works_for_a_key_as_for_a_person(
    endpoint: Endpoint,
    world: World,
    persons_world: World,
    staff: dict[str, Person],
    stores: Stores,
    new_backend: NewBackend,
) -> None:
    worlds = [world, persons_world]
    if not endpoint.reads:
        people = staff["owner"], staff["member"]
        documents = names_documents(endpoint)
        worlds = [await make_world(*people, stores, each, documents=documents) for each in (new_backend, None)]
    of_key, of_person = [await endpoint.call(own.caller, own.request(endpoint)) for own in worlds]
    assert (of_key.code, of_key.message) == (of_person.code, of_person.message)
    assert reason_of(of_key) == reason_of(of_person)
    assert of_key.code not in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


@pytest.fixture(scope="session")
async def lacking(world: World, new_backend: NewBackend) -> dict[str, Person]:
    """By permission, somebody with a key of the same account that has all others."""
    found = {}
    for permission in EVERY:
        others = [each for each in EVERY if each != permission]
        made = await make_key(world.owner, world.ids["org_id"], world.account_id, others)
        found[permission] = new_backend(made.secret)
    return found


@pytest.mark.parametrize("endpoint", SCOPED, ids=name_of)
async def test_every_other_permission_is_not_enough(
    endpoint: Endpoint, world: World, lacking: dict[str, Person]
) -> None:
    permission = endpoint.access.permission
    for ids in ({}, {"user_id": world.account_id}):  # nor when the call is about the account itself
        outcome = await endpoint.call(lacking[permission], world.request(endpoint, **ids))
        assert outcome.code == grpc.StatusCode.PERMISSION_DENIED
        assert reason_of(outcome) == ("PERMISSION_MISSING", {"permission": permission})


@pytest.mark.parametrize("endpoint", IN_WORKSPACES, ids=name_of)
async def test_beyond_its_workspaces_a_key_finds_nothing(
    endpoint: Endpoint, world: World, new_backend: NewBackend
) -> None:
    org_id = world.ids["org_id"]
    elsewhere = {"workspace_ids": [await make_workspace(world.owner, org_id)]}
    made = await make_key(world.owner, org_id, world.account_id, [*OF_WORKSPACES, "org.read"], **elsewhere)
    limited = new_backend(made.secret)
    unknown = world.request(endpoint)
    put(unknown, endpoint.access.scope, random_id())
    outcome = await endpoint.call(limited, world.request(endpoint))
    assert outcome.code == grpc.StatusCode.NOT_FOUND
    assert outcome == await endpoint.call(limited, unknown)


async def _expire(own: World, key: pb.ApiKey, stores: Stores) -> None:
    await sql(stores, "UPDATE api_keys SET expire_time = now() WHERE id = %s", key.api_key_id)


async def _revoke(own: World, key: pb.ApiKey, stores: Stores) -> None:
    await revoke_key(own.owner, key)


async def _rotate(own: World, key: pb.ApiKey, stores: Stores) -> None:
    await rotate_key(own.owner, key)


async def _suspend(own: World, key: pb.ApiKey, stores: Stores) -> None:
    await own.owner.orgs.SuspendMember(org_pb2.SuspendMemberRequest(org_id=key.org_id, user_id=key.user_id))


async def _remove(own: World, key: pb.ApiKey, stores: Stores) -> None:
    await own.owner.orgs.RemoveMember(org_pb2.RemoveMemberRequest(org_id=key.org_id, user_id=key.user_id))


async def _delete(own: World, key: pb.ApiKey, stores: Stores) -> None:
    request = pb.DeleteServiceAccountRequest(org_id=key.org_id, user_id=key.user_id)
    await own.owner.service_accounts.DeleteServiceAccount(request)


async def _delete_org(own: World, key: pb.ApiKey, stores: Stores) -> None:
    await delete_org(own.owner, key.org_id)


End = Callable[[World, pb.ApiKey, Stores], Awaitable[None]]
ENDS: list[End] = [_expire, _revoke, _rotate, _suspend, _remove, _delete, _delete_org]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_a_key_that_has_ended_is_like_no_key_at_all(
    end: End, staff: dict[str, Person], stores: Stores, new_backend: NewBackend
) -> None:
    own = await make_world(staff["owner"], staff["member"], stores, new_backend)
    made = await make_key(own.owner, own.ids["org_id"], own.account_id, EVERY)
    backend, nobody = new_backend(made.secret), new_backend("")
    me = next(endpoint for endpoint in CLOSED if name_of(endpoint) == "AuthService.GetMe")
    if end is not _expire:  # which nobody can tell the server
        assert (await me.call(backend, own.request(me))).code == grpc.StatusCode.OK
    await end(own, made.api_key, stores)
    for endpoint in CLOSED:
        request = own.request(endpoint)
        outcome = await endpoint.call(backend, request)
        assert outcome.code == grpc.StatusCode.UNAUTHENTICATED, name_of(endpoint)
        assert outcome == await endpoint.call(nobody, request), name_of(endpoint)


async def test_a_reinstated_account_has_its_keys_again(
    staff: dict[str, Person], stores: Stores, new_backend: NewBackend
) -> None:
    own = await make_world(staff["owner"], staff["member"], stores, new_backend)
    me = next(endpoint for endpoint in CLOSED if name_of(endpoint) == "AuthService.GetMe")
    org_id = own.ids["org_id"]
    await own.owner.orgs.SuspendMember(org_pb2.SuspendMemberRequest(org_id=org_id, user_id=own.account_id))
    assert (await me.call(own.caller, own.request(me))).code == grpc.StatusCode.UNAUTHENTICATED
    await own.owner.orgs.ReinstateMember(org_pb2.ReinstateMemberRequest(org_id=org_id, user_id=own.account_id))
    assert (await me.call(own.caller, own.request(me))).code == grpc.StatusCode.OK
