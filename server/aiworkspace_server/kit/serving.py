"""gRPC's server, with a loop of its own for each method that accepts calls.

grpc.aio has one loop that waits for the next call of every method at once. Each call then costs time for every method
of the contract, and the path of a method that does not exist is decoded in that loop: one that is not UTF-8 would end
it, and with it the server. Here each method accepts its own calls, and what is left for the loop of grpc.aio are calls
of methods that do not exist, which are refused whatever their path.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server

from .tasks import Tasks

RpcMethodHandler = Any  # grpc.RpcMethodHandler, which is generic for the type checker and not at run time
# Returns what to call instead of a handler, by the method's path; None if the method must not exist.
Wrap = Callable[[str, RpcMethodHandler], RpcMethodHandler | None]

_NOWHERE = "/"  # no method has this path


class _Calls(cygrpc.AioServer):  # type: ignore[misc]
    """Accepts calls."""

    def __init__(self, wrap: Wrap, on_unknown: Callable[[], None], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._wrap = wrap
        self._on_unknown = on_unknown
        self._handlers: dict[str, RpcMethodHandler] = {}
        self._calls = Tasks()

    def add_registered_method_handlers(self, handlers: Mapping[str, RpcMethodHandler]) -> None:
        wrapped = {path: self._wrap(path, handler) for path, handler in handlers.items()}
        existing = {path: handler for path, handler in wrapped.items() if handler}
        self._handlers |= existing
        super().add_registered_method_handlers(existing)

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Task[None]:
        """Return a task that accepts calls of one method, or of those that are not registered, until the server stops.

        grpc.aio starts another one if this one fails while the server runs.
        """
        work = self._refuse_calls() if method is None else self._accept_calls(method)
        return asyncio.get_running_loop().create_task(work)

    async def _accept_calls(self, method: bytes) -> None:
        """Raises when the server stops."""
        path, resolver = method.decode(), cygrpc._MethodResolver([], self._handlers)
        while True:
            self._start(path, resolver, await self._request_registered_call(method))

    async def _refuse_calls(self) -> None:
        """Answer UNIMPLEMENTED. Raises when the server stops."""
        resolver = cygrpc._MethodResolver([], {})
        while True:
            self._start(_NOWHERE, resolver, await self._request_call())
            self._on_unknown()

    def _start(self, path: str, resolver: Any, call: Any) -> None:
        loop = asyncio.get_running_loop()
        answer = cygrpc._handle_rpc(path, resolver, (), call, loop, False)
        self._calls.spawn(cygrpc._schedule_rpc_coro(answer, call, loop, path))


class _Server(_server.Server):
    def __init__(self, wrap: Wrap, options: Any, on_unknown: Callable[[], None]) -> None:
        super().__init__(None, (), (), options, None, None)
        arguments = _server._augment_channel_arguments(options, None)
        self._server = _Calls(wrap, on_unknown, self._loop, None, (), (), arguments, None)


def make_server(
    wrap: Wrap, options: Sequence[tuple[str, Any]] = (), on_unknown: Callable[[], None] = lambda: None
) -> grpc.aio.Server:
    """Return a server of registered methods alone, as `add_...Servicer_to_server` adds them.

    `on_unknown` is called for each call of another method.
    """
    return cast(grpc.aio.Server, _Server(wrap, options, on_unknown))
