"""The largest requests of every method hold the event loop for less than 50 ms each, and cost less than 16 MiB."""

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from aiworkspace.v1 import org_pb2
from aiworkspace_server.app import App
from aiworkspace_server.kit.contract import ContractError, Method, check_size, read_methods
from aiworkspace_server.kit.shapes import UnboundedList, shape_of
from aiworkspace_server.rpc import SERVICES
from tests.contracts.shapes import NOT_UTF8, delimited, fill_lists, largest, most_bytes
from tests.support.loop_time import LoopTime, watching_loop
from tests.support.people import NewPerson, Person, Place, make_place
from tests.support.surface import ENDPOINTS, SCOPES, Endpoint, name_of

MOST_SECONDS = 0.05
MOST_BYTES = 16 << 20
OPEN_BYTES = 4096


class Cost:
    """What a call costs the process."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._before = _memory("VmRSS")

    def too_much(self, loop: LoopTime) -> str:
        grown = _memory("VmHWM") - self._before
        if loop.longest > MOST_SECONDS:
            return f"{loop.longest * 1000:.0f} ms in {loop.what}"
        return f"{grown / 1e6:.0f} MB" if grown > MOST_BYTES else ""


def _memory(what: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(f"{what}:")[2].split()[0]) * 1024


def _requests(endpoint: Endpoint, place: Place) -> Iterator[tuple[str, bytes]]:
    ids = {"org_id": place.org_id, "workspace_id": place.workspace_id, "conversation_id": place.conversation_id}
    valid = endpoint.request(ids | {"user_id": place.owner.user_id})
    if fill_lists(full := type(valid).FromString(valid.SerializeToString())):
        yield "full lists", full.SerializeToString()
    size = most_bytes(endpoint.descriptor)
    yield from largest(endpoint.descriptor.input_type, valid.SerializeToString(), size)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name_of)
async def test_no_request_holds_the_loop_or_costs_much(endpoint: Endpoint, app: App, new_person: NewPerson) -> None:
    person = await new_person()
    place, found = await make_place(person, "echo/echo"), {}
    for name, request in _requests(endpoint, place):
        assert len(request) <= most_bytes(endpoint.descriptor), name
        cost = Cost()
        with watching_loop() as loop:
            outcome = await endpoint.call(person, request)
        assert outcome.code != grpc.StatusCode.INTERNAL, name
        if said := cost.too_much(loop):
            found[name] = said
    assert not found


OPEN = {
    "/grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest.DESCRIPTOR,
    "/grpc.health.v1.Health/Watch": health_pb2.HealthCheckRequest.DESCRIPTOR,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": reflection_pb2.ServerReflectionRequest.DESCRIPTOR,
}


@pytest.mark.parametrize("path", OPEN)
async def test_no_request_to_an_open_service_costs_much(path: str, app: App) -> None:
    found = {}
    async with grpc.aio.insecure_channel(app.address) as channel:
        make: Any = channel.stream_stream
        for name, request in largest(OPEN[path], b"", OPEN_BYTES):
            cost = Cost()
            with watching_loop() as loop:
                call = make(path, None, None)(_once(request), timeout=60)
                with suppress(grpc.aio.AioRpcError):
                    await call.read()
                refused = call.done() and await call.code()
                call.cancel()
            assert refused != grpc.StatusCode.INTERNAL, name
            if said := cost.too_much(loop):
                found[name] = said
    assert not found


async def _once(request: bytes) -> Any:
    yield request


@pytest.mark.parametrize("path", OPEN)
async def test_an_open_service_takes_four_kibibytes(path: str, app: App) -> None:
    async with grpc.aio.insecure_channel(app.address) as channel:
        make: Any = channel.stream_stream
        call = make(path, None, None)(_once(delimited(15, bytes(OPEN_BYTES))), timeout=60)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == "The request has 4,099 bytes; this method accepts at most 4,096."


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name_of)
async def test_a_request_above_its_methods_limit_is_refused_by_size(endpoint: Endpoint, owner: Person) -> None:
    limit = most_bytes(endpoint.descriptor)
    outcome = await endpoint.call(owner, delimited(15, bytes(limit)))
    assert outcome.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert b"REQUEST_TOO_LARGE" in outcome.details or limit == 2 << 20  # above which gRPC itself refuses
    assert f"{limit:,}" in outcome.message or str(limit) in outcome.message


async def test_the_search_for_bad_text_ends_after_as_many_fields_as_a_request_may_have(place: Place) -> None:
    send = next(e for e in ENDPOINTS if name_of(e) == "ChatService.SendMessage")
    outcome = await send.call(place.owner, b"\x78\0" * 900 + delimited(2, NOT_UTF8))
    assert outcome.message == "content: must be valid UTF-8."
    outcome = await send.call(place.owner, b"\x78\0" * 1_000_000 + delimited(2, NOT_UTF8))
    assert (outcome.code, outcome.message[:18]) == (grpc.StatusCode.INVALID_ARGUMENT, "request: has more ")


async def test_lists_that_are_too_long_are_named_alone(place: Place) -> None:
    """Nothing is said of their items, which are not looked at."""
    reconcile = next(e for e in ENDPOINTS if name_of(e) == "UsageService.ReconcileUsage")
    request = delimited(1, place.org_id.encode()) + delimited(3, b"") * 1001
    outcome = await reconcile.call(place.owner, request)
    assert outcome.message == "requests: must contain no more than 1000 item(s)."


# What the contract declares


def declared(name: str) -> Method:
    methods = read_methods(SERVICES, SCOPES)
    return methods[f"/aiworkspace.v1.{name}"]


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("ChatService/SendMessage", (2 << 20) + 1, "it must be 1 to 2,097,152"),
        ("ChatService/SendMessage", 1 << 20, "valid requests have up to"),
        ("AuthService/Login", 8193, "it must be 1 to 8,192"),
        ("AuthService/Login", -1, "it must be 1 to 8,192"),
    ],
)
def test_a_size_that_makes_no_sense_stops_the_server(name: str, size: int, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        check_size(dataclasses.replace(declared(name), max_request_bytes=size))


def test_a_list_without_most_items_stops_the_server() -> None:
    with pytest.raises(UnboundedList, match=r"ListOrgsResponse\.orgs declares no repeated\.max_items"):
        shape_of(org_pb2.ListOrgsResponse.DESCRIPTOR)
    with pytest.raises(ContractError, match="declares no repeated"):
        check_size(dataclasses.replace(declared("OrgService/ListOrgs"), request=org_pb2.ListOrgsResponse))
