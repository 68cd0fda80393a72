"""Who gets in: every method by reflection."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2

from aiworkspace.v1 import org_pb2
from aiworkspace_server.auth.authority import check_permissions
from aiworkspace_server.auth.cookies import ACCESS, REFRESH
from aiworkspace_server.auth.keys import read_keys
from aiworkspace_server.auth.tokens import Tokens
from aiworkspace_server.kit.contract import ContractError, Method, read_methods
from aiworkspace_server.rpc import SERVICES, read_surface
from aiworkspace_server.settings import Settings
from tests.support.browser import csrf_token
from tests.support.people import NewPerson, Person
from tests.support.surface import CLOSED, ENDPOINTS, SCOPES, Endpoint, name_of, random_id


@pytest.fixture(scope="session")
async def stranger(app: object, new_person: NewPerson) -> Person:
    person = await new_person()
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
async def outsider(new_person: NewPerson) -> Person:
    return await new_person()


def test_every_method_declares_its_access() -> None:
    methods = read_methods(SERVICES, SCOPES)
    assert len(methods) == len(ENDPOINTS)
    check_permissions(methods.values())


def test_a_method_without_access_stops_the_server() -> None:
    undeclared: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]
    with pytest.raises(ContractError, match=r"Health/Check declares no access"):
        read_methods([undeclared], ())


def test_what_the_server_reads_is_all_that_it_serves() -> None:
    anything: Any = SimpleNamespace(scopes=SCOPES)
    assert set(read_surface(anything)) == {f"/{s.full_name}/{method.name}" for s in SERVICES for method in s.methods}
    undeclared: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]
    with pytest.raises(ContractError, match=r"Health/Check declares no access"):
        read_surface(anything, (*SERVICES, undeclared))


def test_a_scope_that_nobody_resolves_stops_the_server() -> None:
    with pytest.raises(ContractError, match="the organization cannot be found from"):
        read_methods(SERVICES, ("org_id",))


def test_a_permission_that_no_role_has_stops_the_server() -> None:
    known = next(iter(read_methods(SERVICES, SCOPES).values()))
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
