"""Who gets in: every method by reflection."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2

from aiworkspace.v1 import chat_pb2, org_pb2, workspace_pb2
from aiworkspace_server.auth.authority import check_permissions
from aiworkspace_server.auth.cookies import ACCESS, REFRESH
from aiworkspace_server.auth.keys import read_keys
from aiworkspace_server.auth.tokens import Tokens
from aiworkspace_server.kit.contract import ContractError, Method, read_methods
from aiworkspace_server.rpc import SERVICES
from aiworkspace_server.settings import Settings
from tests.auth.browser import csrf_token
from tests.contracts.surface import CLOSED, ENDPOINTS, Endpoint, id_fields, is_output_only, name_of, put, random_id
from tests.people import NewPerson, Person, events_of, join, make_place, say


@pytest.fixture(scope="session")
async def stranger(app: object, new_person: NewPerson) -> Person:
    person: Person = await new_person()
    person.bearer.token = ""
    return person


@pytest.mark.parametrize("endpoint", CLOSED, ids=name_of)
async def test_no_method_works_without_a_good_token(endpoint: Endpoint, stranger: Person, settings: Settings) -> None:
    tokens = Tokens(read_keys(settings).access, "access", 60)
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    expired = tokens.issue(UUID(stranger.user_id), UUID(stranger.tokens.session_id), long_ago).token
    nobodys = tokens.issue(uuid4(), uuid4(), datetime.now(UTC)).token
    good = stranger.tokens.access_token
    csrf = "x-csrf-token", csrf_token(stranger, settings)
    refused = [
        (),
        (("authorization", "Bearer none"),),
        (("authorization", good),),
        (("authorization", f"Bearer {good[:-2]}"),),
        (("authorization", f"Bearer {expired}"),),
        (("authorization", f"Bearer {nobodys}"),),
        (("authorization", f"Bearer {stranger.tokens.refresh_token}"),),
        (("authorization", f"Bearer {good}"), ("authorization", f"Bearer {good}")),
        (("cookie", f"{ACCESS}={good}"),),
        (("cookie", f"{ACCESS}={good}"), ("x-csrf-token", "none")),
        (("cookie", f"{ACCESS}={expired}"), csrf),
        (("cookie", f"{REFRESH}={stranger.tokens.refresh_token}"), csrf),
        (("cookie", f"{ACCESS}={good}"), ("cookie", f"{ACCESS}={good}"), csrf),
        (("cookie", f"{ACCESS}={good}"), csrf, ("authorization", f"Bearer {good}")),
    ]
    outcomes = {await endpoint.call(stranger, endpoint.request({}), metadata) for metadata in refused}
    assert {outcome.code for outcome in outcomes} == {grpc.StatusCode.UNAUTHENTICATED}
    assert len(outcomes) == 1, "the refusals differ"


@pytest.mark.parametrize("endpoint", [e for e in CLOSED if e.access.scope], ids=name_of)
async def test_every_method_answers_a_cookie_as_it_answers_a_bearer_token(
    endpoint: Endpoint, stranger: Person, settings: Settings
) -> None:
    """With the same refusal to the byte, since nothing here is theirs."""
    token, request = stranger.tokens.access_token, endpoint.request({"org_id": random_id()})
    cookie = ("cookie", f"{ACCESS}={token}"), ("x-csrf-token", csrf_token(stranger, settings))
    by_bearer = await endpoint.call(stranger, request, (("authorization", f"Bearer {token}"),))
    by_cookie = await endpoint.call(stranger, request, cookie)
    assert by_bearer == by_cookie
    assert by_cookie.code != grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture(scope="session")
async def foreign_ids(new_person: NewPerson) -> dict[str, str]:
    """Ids of everything that somebody else has."""
    return await _belongings(new_person)


@pytest.fixture(scope="session")
async def outsider(new_person: NewPerson) -> Person:
    person: Person = await new_person()
    return person


@pytest.fixture(scope="session")
async def own_ids(outsider: Person, new_person: NewPerson) -> dict[str, str]:
    return await _belongings(new_person, outsider)


async def _belongings(new_person: NewPerson, owner: Person | None = None) -> dict[str, str]:
    """An organization with a second member, an invitation, a workspace, a conversation and a run that ended."""
    owner = owner or await new_person()
    place, member = await make_place(owner), await new_person()
    await join(owner, place.org_id, member, org_pb2.ROLE_MEMBER)
    invitation = org_pb2.CreateInvitationRequest(org_id=place.org_id, email="i@example.com", role=org_pb2.ROLE_VIEWER)
    invited = await owner.orgs.CreateInvitation(invitation)
    events = await say(owner, place.conversation_id, "hello")
    return {
        "org_id": place.org_id,
        "workspace_id": place.workspace_id,
        "conversation_id": place.conversation_id,
        "invitation_id": invited.invitation.invitation_id,
        "user_id": member.user_id,
        "session_id": owner.tokens.session_id,
        "run_id": events[0].run_id,
        "user_message_id": events[0].run_started.user_message.message_id,
        "message_id": events[-1].run_completed.message.message_id,
        "active_run_id": events[0].run_id,
    }


_FIELDS = [(endpoint, path) for endpoint in ENDPOINTS for path in id_fields(endpoint.descriptor.input_type)]


@pytest.mark.parametrize(
    ("endpoint", "path"), _FIELDS, ids=lambda value: value if isinstance(value, str) else name_of(value)
)
async def test_foreign_ids_are_as_unknown_as_random_ones(
    endpoint: Endpoint, path: str, outsider: Person, own_ids: dict[str, str], foreign_ids: dict[str, str]
) -> None:
    foreign, unknown = endpoint.request(own_ids), endpoint.request(own_ids)
    put(foreign, path, foreign_ids[path.rpartition(".")[2]])
    put(unknown, path, random_id())
    outcome, other = await endpoint.call(outsider, foreign), await endpoint.call(outsider, unknown)
    if outcome.code == other.code == grpc.StatusCode.OK and outcome.answer != other.answer:
        assert is_output_only(endpoint, path), "the answer depends on a foreign id"
    else:
        assert outcome == other
    if path == endpoint.access.scope:
        assert outcome.code == grpc.StatusCode.NOT_FOUND


async def test_what_a_foreigner_tried_changed_nothing(
    outsider: Person, own_ids: dict[str, str], new_person: NewPerson
) -> None:
    person = await new_person()
    place = await make_place(person)
    events = await say(person, place.conversation_id, "hello")
    before = await _everything(person, place.org_id)
    ids = own_ids | {"org_id": place.org_id, "workspace_id": place.workspace_id}
    ids |= {"conversation_id": place.conversation_id, "run_id": events[0].run_id}
    for endpoint in CLOSED:
        if endpoint.access.scope:
            assert (await endpoint.call(outsider, endpoint.request(ids))).code == grpc.StatusCode.NOT_FOUND
    assert await _everything(person, place.org_id) == before


async def _everything(person: Person, org_id: str) -> list[bytes]:
    """What an owner sees of an organization."""
    ids = {"org_id": org_id}
    listed = [
        e for e in ENDPOINTS if e.access.scope == "org_id" and name_of(e).split(".")[1].startswith(("Get", "List"))
    ]
    answers = [await endpoint.call(person, endpoint.request(ids)) for endpoint in listed]
    workspaces = await person.workspaces.ListWorkspaces(workspace_pb2.ListWorkspacesRequest(org_id=org_id))
    return [answer.answer for answer in answers] + [workspaces.SerializeToString(deterministic=True)]


def test_every_method_declares_its_access() -> None:
    scopes = ("org_id", "workspace_id", "conversation_id", "run_id")
    methods = read_methods(SERVICES, scopes)
    assert len(methods) == len(ENDPOINTS)
    check_permissions(methods.values())


def test_a_method_without_access_stops_the_server() -> None:
    undeclared: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]
    with pytest.raises(ContractError, match=r"Health/Check declares no access"):
        read_methods([undeclared], ())


def test_a_scope_that_nobody_resolves_stops_the_server() -> None:
    with pytest.raises(ContractError, match="no organization can be found by"):
        read_methods(SERVICES, ("org_id",))


def test_a_permission_that_no_role_has_stops_the_server() -> None:
    known = next(iter(read_methods(SERVICES, ("org_id", "workspace_id", "conversation_id", "run_id")).values()))
    access = type(known.access)(permission="nobody.may")
    with pytest.raises(ContractError, match="no role includes"):
        check_permissions([Method(known.path, known.request, access, 1, 1)])


async def test_errors_carry_their_reason_and_the_request_id(outsider: Person) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await outsider.orgs.GetOrg(org_pb2.GetOrgRequest(org_id=random_id()), metadata=(("x-request-id", "mine-1"),))
    trailing = dict(caught.value.trailing_metadata())
    assert trailing["x-request-id"] == "mine-1"
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("RESOURCE_NOT_FOUND", "aiworkspace.v1")


async def test_another_members_conversation_is_not_found(new_person: NewPerson) -> None:
    owner, member = await new_person(), await new_person()
    place = await make_place(owner)
    await join(owner, place.org_id, member, org_pb2.ROLE_ADMIN)
    events = await say(owner, place.conversation_id, "hello")
    ids = {"conversation_id": place.conversation_id, "run_id": events[0].run_id}
    for endpoint in (e for e in CLOSED if e.access.scope.rpartition(".")[2] in ids):
        outcome = await endpoint.call(member, endpoint.request(ids))
        assert outcome.code == grpc.StatusCode.NOT_FOUND, name_of(endpoint)
    assert await events_of(owner.chat.StreamRun(chat_pb2.StreamRunRequest(run_id=events[0].run_id))) == events
