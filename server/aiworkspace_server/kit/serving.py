"""gRPC's server, but for calls of methods that do not exist, which it would let end the server.

It takes the calls of each registered method by themselves, and all others in one place, where it decodes their paths in
the loop that takes calls: a path that is not UTF-8 ends that loop, and with it everything. Services register all of
their methods, so what comes to that place is refused there whatever its path.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server

from .interceptors import Interceptor
from .tasks import Tasks

_NOWHERE = "/"  # no method has this path


class _Calls(cygrpc.AioServer):  # type: ignore[misc]
    """Takes calls."""

    def _make_request_call_future(self, method: bytes | None) -> Any:
        """The next call of a registered method. None: of any other, none of which is let through."""
        if method is not None:
            return super()._make_request_call_future(method)
        return asyncio.get_running_loop().create_task(self._refuse_calls())

    async def _refuse_calls(self) -> None:
        """Answer UNIMPLEMENTED until the server stops, which raises."""
        loop, no_methods = asyncio.get_running_loop(), cygrpc._MethodResolver([], {})
        answers = Tasks()
        while True:
            call = await self._request_call()
            refusal = cygrpc._handle_rpc(_NOWHERE, no_methods, (), call, loop, False)
            answers.spawn(cygrpc._schedule_rpc_coro(refusal, call, loop, _NOWHERE))


class _Server(_server.Server):
    def __init__(self, interceptors: Sequence[Interceptor], options: Any) -> None:
        super().__init__(None, (), interceptors, options, None, None)
        arguments = _server._augment_channel_arguments(options, None)
        self._server = _Calls(self._loop, None, (), interceptors, arguments, None)


def make_server(interceptors: Sequence[Interceptor], options: Sequence[tuple[str, Any]]) -> grpc.aio.Server:
    """A server of registered methods alone, as `add_...Servicer_to_server` adds them."""
    return cast(grpc.aio.Server, _Server(interceptors, options))
