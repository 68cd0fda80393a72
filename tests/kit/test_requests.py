"""Reading requests: when, for how long, and how many at the same time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest as Message

from aiworkspace.v1 import options_pb2 as options
from aiworkspace_server.kit import interceptors, requests
from aiworkspace_server.kit.at_once import CallsAtOnce
from aiworkspace_server.kit.context import Call
from aiworkspace_server.kit.contract import Method
from aiworkspace_server.kit.errors import Unauthenticated
from aiworkspace_server.kit.interceptors import Chain, Handler, Step
from aiworkspace_server.kit.requests import Reading
from aiworkspace_server.kit.serving import make_server
from tests.support import http2
from tests.support.waiting import until, until_true

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
AT_ONCE = 3
COMPLETE = http2.encoded(Message(service="whole").SerializeToString())
INCOMPLETE = COMPLETE[:-2]
DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT.value[0]
RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED.value[0]


def refuse(method: Method, proceed: Handler) -> Handler:
    """A step that lets nobody pass."""

    async def handler(call: Call, request: Any) -> Any:
        raise Unauthenticated

    return handler


@dataclass
class Server:
    """One that answers the requests that it gets, when it is `open`."""

    steps: list[Step]
    address: str = ""

    def __post_init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.begun = 0

    async def unary(self, request: Any, context: Any) -> Message:
        self.begun += 1
        if hasattr(request, "__aiter__"):
            _ = [message async for message in request]
        await self.open.wait()
        return Message()

    async def stream(self, request: Any, context: Any) -> AsyncIterator[Message]:
        yield await self.unary(request, context)

    async def call(self, kind: str, body: bytes, *, ended: bool, headers: Sequence[http2.Header] = ()) -> http2.Answer:
        return await http2.call_with_body(self.address, f"/test.Kinds/{kind}", body, headers, ended=ended)

    async def start(self) -> grpc.aio.Server:
        access = options.Access(mode=options.ACCESS_MODE_PUBLIC)
        methods = {}
        for kind in KINDS:
            streams = {"streams": kind.endswith("stream"), "request_streams": kind.startswith("stream")}
            path = f"/test.Kinds/{kind}"
            methods[path] = Method(path, Message, access, 1, 1, max_request_bytes=100, at_once=AT_ONCE, **streams)
        order = [interceptors.request_id, interceptors.map_errors, *self.steps, requests.validate]
        server = make_server(Chain(methods, order).wrap)
        handlers = {
            kind: getattr(grpc, f"{kind}_rpc_method_handler")(
                self.stream if kind.endswith("stream") else self.unary, Message.FromString, Message.SerializeToString
            )
            for kind in KINDS
        }
        server.add_registered_method_handlers("test.Kinds", handlers)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        return server


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """With the steps of the parameter."""
    server = Server(request.param)
    running = await server.start()
    yield server
    await running.stop(None)


impatient = pytest.mark.parametrize("server", [[Reading(seconds=0.3).step]], indirect=True, ids=[""])


@impatient
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [b"", COMPLETE[:3], INCOMPLETE], ids=["nothing", "a part of its length", "a part"])
async def test_a_request_that_does_not_arrive_ends_with_a_status(server: Server, kind: str, body: bytes) -> None:
    answer = await server.call(kind, body, ended=False)
    assert answer.status == DEADLINE_EXCEEDED
    assert b"The request did not arrive completely within 0.3 s. Retry." in answer.headers
    assert not server.begun or kind.startswith("stream")


@impatient
@pytest.mark.parametrize("kind", KINDS[:2])
async def test_a_call_that_ends_without_a_message_is_refused(server: Server, kind: str) -> None:
    answer = await server.call(kind, b"", ended=True)
    assert answer.status == INVALID_ARGUMENT
    assert server.begun == 0


@impatient
@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("rest", [b"", COMPLETE, INCOMPLETE], ids=["no end", "a second message", "a part of a second"])
async def test_what_follows_the_one_message_is_not_waited_for(server: Server, kind: str, rest: bytes) -> None:
    answer = await server.call(kind, COMPLETE + rest, ended=False)
    assert answer.status == 0


@pytest.mark.parametrize("server", [[refuse, Reading().step]], indirect=True, ids=[""])
@pytest.mark.parametrize("kind", KINDS)
async def test_who_is_refused_need_not_send_a_request(server: Server, kind: str) -> None:
    answer = await server.call(kind, b"", ended=False)
    assert answer.status == UNAUTHENTICATED


@pytest.mark.parametrize("server", [[refuse, Reading().step]], indirect=True, ids=[""])
async def test_a_message_that_cannot_be_read_is_not_asked_for(server: Server) -> None:
    """A length of 4 GiB is announced to who refuses the call: it is refused as any other."""
    answer = await server.call("unary_unary", b"\0\xff\xff\xff\xff", ended=False)
    assert answer.status == UNAUTHENTICATED


@impatient
@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_above_the_limit_is_refused(server: Server, kind: str) -> None:
    answer = await server.call(kind, http2.encoded(b"\x0a\x7f" + bytes(0x7F)), ended=True)
    assert answer.status == RESOURCE_EXHAUSTED
    assert b"The request has 129 bytes; this method accepts at most 100." in answer.headers


@pytest.mark.parametrize("server", [[Reading().step]], indirect=True, ids=[""])
@pytest.mark.parametrize("kind", KINDS)
async def test_headers_above_the_limit_are_refused_of_a_client_that_confirms_no_settings(
    server: Server, kind: str
) -> None:
    many = [(b"a", b"")] * (interceptors.MOST_HEADER_BYTES // 33 + 1)
    assert (await server.call(kind, COMPLETE, ended=True, headers=many)).status == RESOURCE_EXHAUSTED
    assert (await server.call(kind, COMPLETE, ended=True, headers=many[:400])).status == 0


class Arrivals:
    """A step that counts the calls whose requests are about to be read."""

    def __init__(self) -> None:
        self.count = 0

    def step(self, method: Method, proceed: Handler) -> Handler:
        async def handler(call: Call, request: Any) -> Any:
            self.count += 1
            return await proceed(call, request)

        return handler


arrivals = Arrivals()
two_at_once = [arrivals.step, Reading(seconds=60, at_once=2).step]


@pytest.mark.parametrize("server", [two_at_once], indirect=True, ids=[""])
async def test_a_caller_has_few_requests_arriving_and_the_others_wait(server: Server) -> None:
    arriving = [asyncio.create_task(server.call("unary_unary", INCOMPLETE, ended=False)) for _ in range(2)]
    await until_true(lambda: arrivals.count == 2)
    waiting = asyncio.create_task(server.call("unary_unary", COMPLETE, ended=True))
    await asyncio.wait([waiting], timeout=0.5)
    assert server.begun == 0
    assert not waiting.done()
    arriving[0].cancel()  # its connection is closed
    assert (await waiting).status == 0
    arriving[1].cancel()


@pytest.mark.parametrize("server", [[Reading(seconds=60, at_once=1).step]], indirect=True, ids=[""])
@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_waits_for_the_next_message_of_a_dialogue(server: Server, kind: str) -> None:
    dialogues = [asyncio.create_task(server.call(each, b"", ended=False)) for each in KINDS[3:] * 4]
    await until_true(lambda: server.begun == 4)
    assert (await server.call(kind, COMPLETE, ended=True)).status == 0
    for dialogue in dialogues:
        dialogue.cancel()


@pytest.mark.parametrize("server", [[Reading(seconds=60, at_once=1).step]], indirect=True, ids=[""])
async def test_nobody_waits_for_the_next_message_of_a_stream(server: Server) -> None:
    streams = [asyncio.create_task(server.call("stream_unary", COMPLETE, ended=False)) for _ in range(4)]
    await until_true(lambda: server.begun == 4)
    assert (await server.call("unary_unary", COMPLETE, ended=True)).status == 0
    for stream in streams:
        stream.cancel()


limited = pytest.mark.parametrize("server", [[CallsAtOnce().step, Reading(seconds=60).step]], indirect=True, ids=[""])


@limited
@pytest.mark.parametrize("kind", KINDS)
async def test_a_caller_has_as_many_calls_in_progress_as_the_class_allows(server: Server, kind: str) -> None:
    server.open.clear()
    calls = [asyncio.create_task(server.call(kind, COMPLETE, ended=True)) for _ in range(AT_ONCE)]
    await until_true(lambda: server.begun == AT_ONCE)
    refused = await server.call(kind, COMPLETE, ended=True)
    assert refused.status == RESOURCE_EXHAUSTED
    assert b"3 streams of" in refused.headers or b"3 calls of" in refused.headers
    other = KINDS[(KINDS.index(kind) + 1) % 4]  # calls and streams are counted by themselves
    beside = asyncio.create_task(server.call(other, COMPLETE, ended=True))
    await until_true(lambda: server.begun == AT_ONCE + 1)
    server.open.set()
    assert [answer.status for answer in await asyncio.gather(*calls, beside)] == [0] * (AT_ONCE + 1)
    assert (await server.call(kind, COMPLETE, ended=True)).status == 0


@limited
async def test_calls_that_were_given_up_are_not_counted(server: Server) -> None:
    server.open.clear()
    calls = [asyncio.create_task(server.call("unary_unary", COMPLETE, ended=True)) for _ in range(AT_ONCE)]
    await until_true(lambda: server.begun == AT_ONCE)
    for call in calls:
        call.cancel()
    server.open.set()

    async def answered() -> bool:
        return (await server.call("unary_unary", COMPLETE, ended=True)).status == 0

    assert await until(answered)


@limited
@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_whose_answer_is_not_read_counts_as_one_in_progress(server: Server, kind: str) -> None:
    path, message = f"/test.Kinds/{kind}", COMPLETE[5:]
    async with AsyncExitStack() as stack:
        for _ in range(AT_ONCE):
            await stack.enter_async_context(http2.unread(server.address, path, message, settings=http2.NOTHING_AT_ALL))
        await until_true(lambda: server.begun == AT_ONCE)
        assert (await server.call(kind, COMPLETE, ended=True)).status == RESOURCE_EXHAUSTED

    async def answered() -> bool:
        return (await server.call(kind, COMPLETE, ended=True)).status == 0

    await until(answered)


admitted = Arrivals()
counted = [CallsAtOnce().step, admitted.step, Reading(seconds=60).step]


@pytest.mark.parametrize("server", [counted], indirect=True, ids=[""])
async def test_an_incomplete_request_counts_as_a_call_in_progress(server: Server) -> None:
    calls = [asyncio.create_task(server.call("unary_unary", INCOMPLETE, ended=False)) for _ in range(AT_ONCE)]
    await until_true(lambda: admitted.count == AT_ONCE)  # before that, the call below could take a place of theirs
    assert (await server.call("unary_unary", COMPLETE, ended=True)).status == RESOURCE_EXHAUSTED
    for call in calls:
        call.cancel()
