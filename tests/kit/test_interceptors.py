"""The chain around every call, on all four kinds of RPC: what grpc.aio does by itself in these cases is worse."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest as Message

from aiworkspace.v1 import options_pb2 as options
from aiworkspace_server.kit import interceptors, requests
from aiworkspace_server.kit.context import Call, current
from aiworkspace_server.kit.contract import Method
from aiworkspace_server.kit.errors import InvalidArgument, NotFound
from aiworkspace_server.kit.interceptors import Chain, Handler
from aiworkspace_server.kit.requests import Reading
from aiworkspace_server.kit.serving import make_server
from aiworkspace_server.rpc import steps

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
SECRET = "the text of an exception"

Behaviour = Callable[[Any], Awaitable[Message]]


@dataclass
class Service:
    """A server with a method of each kind, which all do what `behaviour` says."""

    behaviour: Behaviour = field(default=lambda context: _answer())
    seen: list[str] = field(default_factory=list)
    channel: Any = None
    clean_up: asyncio.Future[tuple[bool, str]] | None = None

    async def unary(self, request: Any, context: Any) -> Message:
        if hasattr(request, "__aiter__"):
            _ = [message async for message in request]
        return await self.behaviour(context)

    async def stream(self, request: Any, context: Any) -> AsyncIterator[Message]:
        handler = asyncio.current_task()
        how = "end"
        try:
            if hasattr(request, "__aiter__"):
                _ = [message async for message in request]
            yield Message(service="first")
            yield await self.behaviour(context)
        except BaseException as error:
            how = type(error).__name__
            raise
        finally:
            if self.clean_up:
                self.clean_up.set_result((asyncio.current_task() is handler, how))

    async def call(self, kind: str, data: bytes = b"") -> list[bytes]:
        """The answers to a call with these bytes for a request."""
        made = getattr(self.channel, kind)(f"/test.Kinds/{kind}", None, None)
        call = made(_once(data) if kind.startswith("stream") else data, timeout=60)
        return [part async for part in call] if kind.endswith("stream") else [await call]


async def _answer() -> Message:
    return Message(service="answer")


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def remember(service: Service) -> interceptors.Step:
    def step(method: Method, proceed: Handler) -> Handler:
        async def handler(call: Call, request: Any) -> Any:
            service.seen.append(method.name)
            try:
                return await proceed(call, request)
            finally:
                service.seen.append("end")

        return handler

    return step


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    access = options.Access(mode=options.ACCESS_MODE_PUBLIC)
    methods = {
        f"/test.Kinds/{kind}": Method(
            f"/test.Kinds/{kind}", Message, access, 1, 1, request_streams=kind.startswith("stream")
        )
        for kind in KINDS
    }
    order = [interceptors.request_id, interceptors.map_errors, interceptors.log_calls, remember(service)]
    order += [Reading().step, requests.validate]
    server = make_server(Chain(methods, order).wrap)
    handlers = {
        kind: getattr(grpc, f"{kind}_rpc_method_handler")(
            service.stream if kind.endswith("stream") else service.unary, Message.FromString, Message.SerializeToString
        )
        for kind in KINDS
    }
    handlers["undeclared"] = grpc.unary_unary_rpc_method_handler(service.unary)
    server.add_registered_method_handlers("test.Kinds", handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as service.channel:
        yield service
    await server.stop(None)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def status_of(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str, list[str]]:
    """Code, text, and the reasons of the details."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    trailing = dict(caught.value.trailing_metadata() or ())
    assert trailing["x-request-id"]
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    return caught.value.code(), caught.value.details() or "", [info.reason]


async def test_every_kind_passes_through_the_chain(service: Service, kind: str) -> None:
    answers = [Message.FromString(part).service for part in await service.call(kind)]
    assert answers == (["first", "answer"] if kind.endswith("stream") else ["answer"])
    assert service.seen == [kind, "end"]


async def test_the_text_of_an_exception_stays_inside(service: Service, kind: str) -> None:
    async def fail(context: Any) -> Message:
        raise ValueError(SECRET)

    service.behaviour = fail
    assert await status_of(service.call(kind)) == (grpc.StatusCode.INTERNAL, "Internal error.", ["INTERNAL"])


async def test_a_domain_error_becomes_its_status(service: Service, kind: str) -> None:
    async def fail(context: Any) -> Message:
        raise NotFound("org_id")

    service.behaviour = fail
    expected = (grpc.StatusCode.NOT_FOUND, "org_id: not found.", ["RESOURCE_NOT_FOUND"])
    assert await status_of(service.call(kind)) == expected


async def test_a_cancel_inside_a_handler_ends_the_call(service: Service, kind: str) -> None:
    async def cancelled_inside(context: Any) -> Message:
        raise asyncio.CancelledError

    service.behaviour = cancelled_inside
    code, _, reasons = await status_of(service.call(kind))
    assert (code, reasons) == (grpc.StatusCode.UNAVAILABLE, ["UNAVAILABLE"])


async def test_a_request_that_cannot_be_decoded_is_an_invalid_argument(service: Service, kind: str) -> None:
    code, text, reasons = await status_of(service.call(kind, b"\x0a\x01\xff"))
    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, "service: must be valid UTF-8.")
    assert reasons == ["FIELD_INVALID"]


async def test_a_handlers_own_status_is_left_alone(service: Service, kind: str) -> None:
    async def abort(context: Any) -> Message:
        await context.abort(grpc.StatusCode.DATA_LOSS, "gone")
        raise AssertionError

    service.behaviour = abort
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.call(kind)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "gone")


async def test_a_client_that_goes_away_cancels_the_handler_in_its_own_task(service: Service) -> None:
    reached, service.clean_up = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def wait(context: Any) -> Message:
        reached.set()
        await asyncio.sleep(60)
        return Message()

    service.behaviour = wait
    call = asyncio.create_task(service.call("unary_stream"))
    await asyncio.wait_for(reached.wait(), 120)
    call.cancel()
    in_own_task, how = await asyncio.wait_for(service.clean_up, 120)
    assert (in_own_task, how) == (True, "CancelledError")


async def test_what_interceptors_set_is_visible_in_handlers(service: Service, kind: str) -> None:
    async def name_request(context: Any) -> Message:
        return Message(service=current.get().request_id)

    service.behaviour = name_request
    assert Message.FromString((await service.call(kind))[-1]).service


async def test_a_method_outside_of_the_contract_does_not_exist(service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.channel.unary_unary("/test.Kinds/undeclared", None, None)(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("given", ["", "x" * 65, "mine\u00a0"])
async def test_request_ids_that_are_not_fit_for_a_log_are_replaced(service: Service, given: str) -> None:
    made = service.channel.unary_unary("/test.Kinds/unary_unary", None, None)
    call = made(b"", metadata=(("x-request-id", given.encode("ascii", "ignore").decode()),))
    await call
    trailing = dict(await call.trailing_metadata())
    assert trailing["x-request-id"] != given


def test_the_order_of_the_chain() -> None:
    class Anything:
        def __getattr__(self, name: str) -> Any:
            def step(method: Method, proceed: Handler) -> Handler:
                return proceed

            step.__qualname__ = name
            return step

    anything: Any = Anything()
    names = [step.__qualname__.split(".")[0] for step in steps(*[anything] * 9)]
    assert names == [
        "request_id",
        "map_errors",
        "measure_calls",
        "step",  # addresses
        "log_calls",
        "authenticate",
        "step",  # tracing
        "step",  # limits
        "step",  # at_once
        "step",  # reading
        "outcomes",
        "authenticate_again",
        "authorize",
        "normalise",
        "validate",
        "changes",
    ]


def test_a_status_stays_below_what_clients_take() -> None:
    error = InvalidArgument({f"field_{n}": "must be something else " * 10 for n in range(500)})
    assert len(error.to_status().SerializeToString()) < 6 << 10
