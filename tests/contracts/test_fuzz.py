"""Random input to every method, of people who signed in and of nobody: it ends in a refusal, never in a defect."""

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from aiworkspace.v1 import options_pb2 as options
from tests import corpora
from tests.contracts.conftest import Estate
from tests.contracts.messages import messages
from tests.support import http2
from tests.support.people import Person
from tests.support.surface import CLOSED, ENDPOINTS, Endpoint, Outcome, name_of

DEFECTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED}
DEFECTS |= {grpc.StatusCode.DATA_LOSS, grpc.StatusCode.DEADLINE_EXCEEDED}
OPEN = [e for e in ENDPOINTS if e.access.mode == options.ACCESS_MODE_PUBLIC]


def trying(times: int) -> settings:
    """What fails is told as it is: making it smaller would take longer than the limit of a test."""
    return settings(
        max_examples=times,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


async def code_of(endpoint: Endpoint, person: Person, request: Any) -> grpc.StatusCode:
    outcome = await endpoint.call(person, request)
    if outcome.code == grpc.StatusCode.UNAUTHENTICATED and endpoint in CLOSED:
        await _sign_in_again(person)
        outcome = await endpoint.call(person, request)
    return outcome.code


async def _sign_in_again(person: Person) -> None:
    """A call before may have ended the session, or changed the password: then somebody else goes on."""
    try:
        await person.log_in()
    except grpc.aio.AioRpcError:
        person.email = f"again-{person.email}"[:100]
        person.bearer.token = ""
        await person.register()


@pytest.fixture(scope="module")
async def nobody(estate: Estate) -> Person:
    """Signed in nowhere."""
    person: Person = await estate.new_person()
    person.bearer.token = ""
    return person


@pytest.mark.parametrize("endpoint", OPEN, ids=name_of)
@trying(40)
@given(data=st.data())
async def test_public_methods_take_any_message(
    endpoint: Endpoint, data: st.DataObject, nobody: Person, estate: Estate
) -> None:
    ids = {"email": estate.ours.owner.email, "refresh_token": estate.ours.member.tokens.refresh_token}
    assert await code_of(endpoint, nobody, data.draw(messages(endpoint.descriptor.input_type, ids))) not in DEFECTS


@pytest.mark.parametrize("endpoint", OPEN, ids=name_of)
@trying(100)
@given(request=st.binary(max_size=300))
async def test_public_methods_take_any_bytes(endpoint: Endpoint, request: bytes, nobody: Person) -> None:
    assert await code_of(endpoint, nobody, request) not in DEFECTS


@pytest.mark.parametrize("endpoint", CLOSED, ids=name_of)
@trying(15)
@given(data=st.data())
async def test_other_methods_take_any_message_of_whoever_signed_in(
    endpoint: Endpoint, data: st.DataObject, estate: Estate
) -> None:
    request = data.draw(messages(endpoint.descriptor.input_type, estate.theirs.ids))
    assert await code_of(endpoint, estate.theirs.owner, request) not in DEFECTS


@pytest.mark.parametrize("endpoint", CLOSED, ids=name_of)
@trying(10)
@given(request=st.binary(max_size=300))
async def test_other_methods_take_any_bytes(endpoint: Endpoint, request: bytes, estate: Estate) -> None:
    assert await code_of(endpoint, estate.theirs.owner, request) not in DEFECTS


# Metadata

NAMES = sorted({name for call in corpora.read("headers", "calls") for name, _ in call["headers"]})
# Of gRPC and of HTTP/2 itself, which the library reads before the server does.
NAMES = [name for name in NAMES if not name.startswith("grpc-")]


@trying(60)
@given(headers=st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=300)), max_size=6))
async def test_any_metadata_is_taken(headers: list[tuple[str, bytes]], estate: Estate) -> None:
    for method in ("GetMe", "GetJwks"):
        path = f"/aiworkspace.v1.AuthService/{method}"
        answer = await http2.call(estate.app.address, path, b"", [(name.encode(), value) for name, value in headers])
        assert answer.status not in {code.value[0] for code in DEFECTS}, answer


@trying(100)
@given(path=st.text(max_size=60).map(str.encode) | st.binary(max_size=60), message=st.binary(max_size=60))
@example(path=b"\xff", message=b"")
async def test_what_is_no_method_does_not_exist(path: bytes, message: bytes, estate: Estate) -> None:
    answer = await http2.call(estate.app.address, b"/" + path, message)
    assert answer.status in (None, grpc.StatusCode.UNIMPLEMENTED.value[0]), answer


# Health and reflection


async def first_answer(estate: Estate, path: str, request: bytes) -> Outcome:
    """The first answer to a call, of whatever kind the method is: a watch would not end by itself."""
    channel: Any = grpc.aio.insecure_channel(estate.app.address)
    if "reflection" in path:
        call = channel.stream_stream(path, None, None)(_once(request), timeout=60)
    else:
        call = channel.unary_stream(path, None, None)(request, timeout=60)
    try:
        answer = await call.read()
        code = grpc.StatusCode.OK if answer is not grpc.aio.EOF else await call.code()
        return Outcome(code, "", b"", b"")
    except grpc.aio.AioRpcError as error:
        return Outcome(error.code(), error.details() or "", b"", b"")
    finally:
        call.cancel()
        await channel.close()


async def _once(request: bytes) -> Any:
    yield request


def _requests(message: Any) -> st.SearchStrategy[bytes]:
    valid = messages(message.DESCRIPTOR, {"service": "aiworkspace.v1.AuthService"})
    return st.one_of(st.binary(max_size=100), valid.map(lambda request: request.SerializeToString()))


@pytest.mark.parametrize("method", ["Check", "Watch"])
@trying(40)
@given(request=_requests(health_pb2.HealthCheckRequest))
async def test_health_takes_anything(method: str, request: bytes, estate: Estate) -> None:
    outcome = await first_answer(estate, f"/grpc.health.v1.Health/{method}", request)
    assert outcome.code not in DEFECTS, outcome


@trying(40)
@given(request=st.binary(max_size=100))
async def test_reflection_takes_any_bytes(request: bytes, estate: Estate) -> None:
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    outcome = await first_answer(estate, path, request)
    assert outcome.code not in DEFECTS, outcome


@trying(40)
@given(text=st.text(max_size=60), number=st.integers(-(1 << 31), (1 << 31) - 1), which=st.integers(0, 4))
async def test_reflection_takes_any_question(text: str, number: int, which: int, estate: Estate) -> None:
    extension = reflection_pb2.ExtensionRequest(containing_type=text, extension_number=number)
    questions: list[dict[str, Any]] = [
        {"file_by_filename": text},
        {"file_containing_symbol": text},
        {"file_containing_extension": extension},
        {"all_extension_numbers_of_type": text},
        {"list_services": text},
    ]
    request = reflection_pb2.ServerReflectionRequest(**questions[which])
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    outcome = await first_answer(estate, path, request.SerializeToString())
    assert outcome.code not in DEFECTS, outcome
