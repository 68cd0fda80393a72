"""The steps that read a request after authentication and validate it by the rules of the contract."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import Message
from protovalidate import Validator

from aiworkspace.v1 import options_pb2 as options

from .concurrency import KeyedSemaphore
from .context import Call
from .contract import Method
from .deadlines import Deadlines
from .errors import MOST_VIOLATIONS, AppError, InvalidArgument, RequestIncomplete, RequestTooLarge
from .interceptors import CallerGone, Handler
from .limits import caller_of
from .request_streams import RequestStream
from .shapes import shape_of
from .wire import decoder

_SECONDS = 10.0  # within which a request must arrive
_AT_ONCE = 8  # incomplete requests of one caller: gRPC holds up to 4 MiB of each, whatever its method takes

_DRAIN_SECONDS, _MOST_DRAINED_BYTES = 1.0, 4 << 20  # of a refused stream

Decode = Callable[[bytes], Message]
Receive = Callable[[Call], Awaitable[Any]]

_validator = Validator()


class Reading:
    """The step that reads and decodes the request. Until then a call holds no more than the window of its stream.

    A caller has at most `at_once` requests arriving at the same time, and further ones wait. They do not wait for the
    next message of a stream, of which a caller has few. Raises RequestIncomplete for a request that has not arrived
    after `seconds`, and RequestTooLarge for one that is larger than its method allows.
    """

    def __init__(self, seconds: float = _SECONDS, at_once: int = _AT_ONCE) -> None:
        self._deadlines = Deadlines(seconds)
        self._turns = KeyedSemaphore(at_once)

    def step(self, method: Method, proceed: Handler) -> Handler:
        decode = decoder(method.request, shape_of(method.request.DESCRIPTOR))

        async def read_one(call: Call, _: None) -> Any:
            return await proceed(call, await self._read_one(call, decode))

        async def read_first(call: Call, _: None) -> Any:
            first = await self._read_one(call, decode)
            try:
                return await proceed(call, RequestStream(first, self._read_all(call, decode)))
            except AppError:
                await _drain(call)
                raise

        async def read_all(call: Call, _: None) -> Any:
            return await proceed(call, self._read_all(call, decode))

        if method.is_dialogue:
            return read_all
        return read_first if method.request_streams else read_one

    async def _read_one(self, call: Call, decode: Decode) -> Message:
        message = await self._read(call, decode, self._receive_in_turn)
        if message is None:
            raise InvalidArgument({"request": "is missing: the call ended without a message"})
        return message

    async def _read_all(self, call: Call, decode: Decode) -> AsyncIterator[Message]:
        while (message := await self._read(call, decode, _receive)) is not None:
            yield message

    async def _read(self, call: Call, decode: Decode, receive: Receive) -> Message | None:
        """Return the next message, or None if there is no other."""
        try:
            with self._deadlines:
                data = await receive(call)
        except TimeoutError:
            raise RequestIncomplete(self._deadlines.seconds) from None
        except grpc.aio.InternalError:
            raise CallerGone from None
        if data is grpc.aio.EOF:
            return None
        if len(data) > call.method.max_request_bytes:
            raise RequestTooLarge(call.method.max_request_bytes, len(data))
        return decode(data)

    async def _receive_in_turn(self, call: Call) -> Any:
        key = call.method.rate_limit == options.RATE_LIMIT_CLASS_OPEN, caller_of(call)
        if not self._turns.try_acquire(key):
            await self._turns.acquire(key)
        try:
            return await _receive(call)
        finally:
            self._turns.release(key)


async def _receive(call: Call) -> Any:
    return await call.context.read()


async def _drain(call: Call) -> None:
    """Take what a refused caller is still sending, within bounds: a client may not see a status before it has sent."""
    left = _MOST_DRAINED_BYTES
    with suppress(TimeoutError, grpc.aio.InternalError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while left > 0 and (data := await call.context.read()) is not grpc.aio.EOF:
                left -= len(data)


def validate(method: Method, proceed: Handler) -> Handler:
    """Validate the request by the rules of the contract. Decoding has bounded its size."""

    async def handler(call: Call, request: Any) -> Any:
        if method.is_dialogue:
            return await proceed(call, _validated(request))
        if isinstance(request, RequestStream):
            request.add_check(_validate)
        else:
            _validate(request)
        return await proceed(call, request)

    return handler


async def _validated(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        _validate(request)
        yield request


def _validate(request: Any) -> None:
    violations = _validator.collect_violations(request)[:MOST_VIOLATIONS]
    if violations:
        raise InvalidArgument({_path(found.proto): found.proto.message for found in violations})


def _path(violation: Any) -> str:
    names = []
    for element in violation.field.elements:
        subscript = getattr(element, "subscript", None)
        index = f"[{subscript.value}]" if subscript is not None and hasattr(subscript, "value") else ""
        names.append(f"{element.field_name}{index}")
    return ".".join(names) or "request"
