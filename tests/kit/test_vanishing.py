"""Callers whose connection is cut while something is sent to them: their calls end, and the log stays quiet."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest as Message

from aiworkspace.v1 import options_pb2 as options
from aiworkspace_server.kit import interceptors
from aiworkspace_server.kit.contract import Method
from aiworkspace_server.kit.errors import InvalidArgument
from aiworkspace_server.kit.interceptors import Chain
from aiworkspace_server.kit.requests import Reading
from aiworkspace_server.kit.serving import make_server
from tests.support import http2
from tests.support.logged import logged_by
from tests.support.waiting import until_true

COUNT = 40
PATHS = "/test.Sends/stream", "/test.Sends/answer", "/test.Sends/refuse"


class Service:
    """Counts the calls that began and those that ended."""

    def __init__(self) -> None:
        self.began = self.ended = self.wrote = 0
        self.address = ""

    async def stream(self, request: Any, context: Any) -> AsyncIterator[Message]:
        """More than any buffer takes, so that a write is under way when the connection is cut."""
        self.began += 1
        try:
            while True:
                yield Message(service="x" * 20_000)
                self.wrote += 1
        finally:
            self.ended += 1

    async def answer(self, request: Any, context: Any) -> Message:
        """Once, and more than any buffer takes."""
        self.began += 1
        self.ended += 1
        return Message(service="x" * 4_000_000)

    async def refuse(self, request: Any, context: Any) -> Message:
        self.began += 1
        self.ended += 1
        raise InvalidArgument({"service": "x" * 1000})


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    access = options.Access(mode=options.ACCESS_MODE_PUBLIC)
    methods = {path: Method(path, Message, access, 1, 1) for path in PATHS}
    order = [interceptors.request_id, interceptors.map_errors, interceptors.log_calls, Reading().step]
    server = make_server(Chain(methods, order).wrap)
    parsed = Message.FromString, Message.SerializeToString
    handlers = {
        "stream": grpc.unary_stream_rpc_method_handler(service.stream, *parsed),
        "answer": grpc.unary_unary_rpc_method_handler(service.answer, *parsed),
        "refuse": grpc.unary_unary_rpc_method_handler(service.refuse, *parsed),
    }
    server.add_registered_method_handlers("test.Sends", handlers)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield service
    await server.stop(None)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the interceptors log."""
    return logged_by(interceptors, monkeypatch)


@pytest.mark.parametrize("method", ["stream", "answer", "refuse"])
async def test_caller_that_vanishes_while_it_is_sent_something_leaves_no_traceback(
    service: Service, method: str, lines: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for n in range(1, COUNT + 1):
        async with http2.unread(service.address, f"/test.Sends/{method}", b""):
            await until_true(lambda: service.began == n)  # noqa: B023 - at once
    await until_true(lambda: service.ended == COUNT == len(lines))
    assert {(line["event"], line["log_level"]) for line in lines} == {("call", "info")}
    assert {line["code"] for line in lines} <= {"CANCELLED", "INVALID_ARGUMENT", "OK"}
    assert [record.getMessage() for record in caplog.records] == []
    if method == "stream":
        assert service.wrote > 0


class Gone:
    """The context of a call whose caller is gone: whatever is sent fails."""

    async def write(self, *_: object) -> None:
        raise grpc.aio.InternalError("Failed execute_batch")

    abort = write

    def set_trailing_metadata(self, _: object) -> None:
        pass

    def invocation_metadata(self) -> tuple[()]:
        return ()


@pytest.mark.parametrize("method", ["stream", "refuse"])
async def test_failed_write_ends_the_call_as_cancelled(method: str, lines: list[Any]) -> None:
    service, parsed = Service(), (Message.FromString, Message.SerializeToString)
    path = f"/test.Sends/{method}"
    inner: Any = (
        grpc.unary_stream_rpc_method_handler(service.stream, *parsed)
        if method == "stream"
        else grpc.unary_unary_rpc_method_handler(service.refuse, *parsed)
    )
    access = options.Access(mode=options.ACCESS_MODE_PUBLIC)
    order = [interceptors.request_id, interceptors.map_errors, interceptors.log_calls]
    handler = interceptors.wrap(inner, Method(path, Message, access, 1, 1), order)
    with pytest.raises(asyncio.CancelledError):
        await (handler.stream_unary or handler.stream_stream)(None, Gone())
    assert service.ended == 1
    assert [(line["event"], line["log_level"]) for line in lines] == [("call", "info")]
