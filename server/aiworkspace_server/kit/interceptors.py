"""The chain: one ordered list of steps around every method, the same for all four kinds of RPC.

A step is built once per method and wraps the next one. All of them run in the task of the call and are the only way
to the handler. The request is None until the step that reads it. A handler that yields is driven here, so that its
clean-up runs in its own task.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import grpc
import structlog
from grpc_status import rpc_status
from prometheus_client import Histogram

from aiworkspace.v1 import options_pb2 as options

from .context import Call, current
from .contract import Method, open_method
from .errors import AppError, Internal, SessionRequired, Unavailable
from .ids import new_id_text
from .metrics import Metrics
from .request_streams import message_of
from .serving import RpcMethodHandler
from .stores import STORE_UNAVAILABLE
from .watch import Watches
from .wire import encode

Handler = Callable[[Call, Any], Awaitable[Any]]
Step = Callable[[Method, Handler], Handler]

# gRPC enforces it, too, but not for clients that do not confirm the settings of the connection: they may send 16 MiB.
MOST_HEADER_BYTES = 20 << 10
_HEADER_BYTES = 32  # beside its name and value, as HTTP/2 counts them

RECHECK_SECONDS = 3.0  # with the second that caches may be old, streams end within five

# A context has numbers in place of codes.
_CODES: dict[Any, str] = {code.value[0]: code.name for code in grpc.StatusCode}

log = structlog.get_logger("rpc")


class CallerGone(asyncio.CancelledError):
    """The caller disconnected while a message was sent to it. Ends the call like a cancellation."""


class Chain:
    """Wraps each method of the contract in the steps, the first outermost. Other methods do not exist.

    Except those of the `open_services`, health and reflection: the contract does not declare them, anybody may call
    them, and they have steps of their own.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        steps: Sequence[Step],
        open_services: Collection[str] = (),
        open_steps: Sequence[Step] = (),
    ) -> None:
        self._methods = methods
        self._steps = steps
        self._open_services = open_services
        self._open_steps = open_steps

    def wrap(self, path: str, handler: RpcMethodHandler) -> RpcMethodHandler | None:
        """Return the handler within the steps; None for a method that must not exist."""
        if path in self._methods:
            return wrap(handler, self._methods[path], self._steps)
        if path.split("/")[1] in self._open_services:
            return wrap(handler, open_method(path, handler), self._open_steps)
        return None


def wrap(handler: Any, method: Method, steps: Sequence[Step]) -> RpcMethodHandler:
    """Return a handler that runs the given one within the steps."""
    proceed = _innermost(handler)
    for step in reversed(steps):
        proceed = step(method, proceed)
    return _rebuild(handler, method, proceed)


def _innermost(handler: Any) -> Handler:
    function = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if not inspect.isasyncgenfunction(function):

        async def answer(call: Call, request: Any) -> Any:
            return await function(request, call.context)

        return answer

    async def drive(call: Call, request: Any) -> None:
        async with aclosing(function(request, call.context)) as responses:
            async for response in responses:
                try:
                    await call.context.write(response)
                except grpc.aio.InternalError:
                    raise CallerGone from None

    return drive


def _rebuild(handler: Any, method: Method, proceed: Handler) -> RpcMethodHandler:
    """Return a handler whose request gRPC does not read: a step reads it after authentication.

    On the wire, a call with one request and a call with a stream of requests look the same.
    """

    async def entry(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        metadata: dict[str, tuple[str, ...]] = {}
        left = MOST_HEADER_BYTES
        for name, value in context.invocation_metadata() or ():
            left -= len(name) + len(value) + _HEADER_BYTES
            metadata[name] = (*metadata[name], str(value)) if name in metadata else (str(value),)
        if left < 0:
            message = f"The headers of a call must have no more than {MOST_HEADER_BYTES:,} bytes."
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        call = Call(method, context, metadata)
        current.set(call)
        return await proceed(call, None)

    streams = handler.response_streaming
    make = grpc.stream_stream_rpc_method_handler if streams else grpc.stream_unary_rpc_method_handler
    return make(entry, request_deserializer=None, response_serializer=encode)


def request_id(method: Method, proceed: Handler) -> Handler:
    """Gives the call an id: the client's x-request-id if it is safe to log, otherwise a new one."""

    async def handler(call: Call, request: Any) -> Any:
        given = call.header("x-request-id")
        fit = given and len(given) <= 64 and given.isascii() and given.isprintable()
        call.request_id = given if fit else new_id_text()
        call.context.set_trailing_metadata((("x-request-id", call.request_id),))
        return await proceed(call, request)

    return handler


def map_errors(method: Method, proceed: Handler) -> Handler:
    """Maps exceptions to statuses. The text of an unexpected exception never reaches the caller."""

    async def handler(call: Call, request: Any) -> Any:
        try:
            return await proceed(call, request)
        except CallerGone:
            raise
        except AppError as error:
            await _abort(call, error)
        except grpc.aio.AbortError:
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            await _abort(call, Unavailable())  # something inside the call was cancelled, not the call
        except STORE_UNAVAILABLE:
            log.warning("database_unavailable", method=call.method.path, request_id=call.request_id, exc_info=True)
            await _abort(call, Unavailable())
        except Exception:
            log.exception("call_failed", method=call.method.path, request_id=call.request_id)
            await _abort(call, Internal(call.request_id))

    return handler


async def _abort(call: Call, error: AppError) -> None:
    status = rpc_status.to_status(error.to_status())
    trailing = (*status.trailing_metadata, ("x-request-id", call.request_id))
    try:
        await call.context.abort(error.code, error.message, trailing)
    except grpc.aio.InternalError:
        raise CallerGone from None


def measure_calls(metrics: Metrics) -> Step:
    """Counts calls by outcome and time, and those in progress."""

    def step(method: Method, proceed: Handler) -> Handler:
        name = method.path[1:]
        streams = metrics.streams.labels(name) if method.streams else None
        seconds: dict[str, Histogram] = {}

        async def handler(call: Call, request: Any) -> Any:
            start = time.perf_counter()
            code = "OK"
            if streams:
                streams.inc()
            else:
                metrics.unary_calls += 1
            try:
                return await proceed(call, request)
            except grpc.aio.AbortError:
                code = _CODES[call.context.code()]
                raise
            except BaseException as error:
                code, _ = outcome_of(error)
                raise
            finally:
                if streams:
                    streams.dec()
                else:
                    metrics.unary_calls -= 1
                if code not in seconds:
                    seconds[code] = metrics.rpc_seconds.labels(name, code)
                seconds[code].observe(time.perf_counter() - start)

        return handler

    return step


def log_calls(method: Method, proceed: Handler) -> Handler:
    """Logs one line per call, without requests and responses."""
    path = method.path

    async def handler(call: Call, request: Any) -> Any:
        start = time.perf_counter()
        code, reason = "OK", ""
        try:
            return await proceed(call, request)
        except BaseException as error:
            code, reason = outcome_of(error)
            raise
        finally:
            ms = round((time.perf_counter() - start) * 100_000) / 100
            fields: dict[str, object] = {"method": path, "code": code, "ms": ms, "request_id": call.request_id}
            if call.user_id:
                fields["user_id"] = call.user_id
            if call.org_id:
                fields["org_id"] = call.org_id
            if reason:
                fields["reason"] = reason
            log.info("call", **fields)

    return handler


def outcome_of(error: BaseException) -> tuple[str, str]:
    """Return the status code of a call that raised this, and the reason, which may be empty."""
    if isinstance(error, AppError):
        return error.code.name, error.reason_name
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED", ""
    return ("UNAVAILABLE" if isinstance(error, STORE_UNAVAILABLE) else "INTERNAL"), ""


def authenticate(check: Callable[[Call], Awaitable[None]]) -> Step:
    """Authenticates the caller with `check`, except on public methods. Refuses API keys where a session is required."""

    def step(method: Method, proceed: Handler) -> Handler:
        if method.access.mode == options.ACCESS_MODE_PUBLIC:
            return proceed
        needs_session = method.access.mode in (options.ACCESS_MODE_SESSION, options.ACCESS_MODE_OPERATOR)

        async def handler(call: Call, request: Any) -> Any:
            await check(call)
            if needs_session and call.session_id is None:
                raise SessionRequired
            return await proceed(call, request)

        return handler

    return step


def authenticate_again(refresh: Callable[[Call], Awaitable[None]]) -> Step:
    """Before a method that changes something, read the caller from the database again, and bypass cached rights.

    Cached rights may be a second old. Without this step, somebody who was removed through another process a moment ago
    could still delete the organization.
    """

    def step(method: Method, proceed: Handler) -> Handler:
        public = method.access.mode == options.ACCESS_MODE_PUBLIC
        # The transaction that starts a run checks the right to it itself.
        if public or method.reads or method.rate_limit == options.RATE_LIMIT_CLASS_GENERATE:
            return proceed

        async def handler(call: Call, request: Any) -> Any:
            await refresh(call)
            call.fresh = True
            return await proceed(call, request)

        return handler

    return step


def authorize(
    check: Callable[[Call, Any], Awaitable[None]],
    check_operator: Callable[[Call], Awaitable[None]],
    recheck: Callable[[Call], Awaitable[None]],
    allowed_by: Callable[[Call], Hashable],
) -> Step:
    """Finds the organization and checks the caller's permission with `check`, on methods that require one.

    On methods for operators of the server, `check_operator` checks that the caller is one.

    During a stream, `recheck` repeats the check every few seconds, once for all streams for which `allowed_by` returns
    the same key.
    """
    watches = Watches(RECHECK_SECONDS)

    def step(method: Method, proceed: Handler) -> Handler:
        if method.access.mode == options.ACCESS_MODE_OPERATOR:

            async def for_operators(call: Call, request: Any) -> Any:
                await check_operator(call)
                return await proceed(call, request)

            return for_operators
        if method.access.mode != options.ACCESS_MODE_PERMISSION:
            return proceed

        async def handler(call: Call, request: Any) -> Any:
            await check(call, message_of(request))
            if not (method.streams or method.request_streams):
                return await proceed(call, request)
            async with watches.watching(allowed_by(call), lambda: recheck(call)):
                return await proceed(call, request)

        return handler

    return step
