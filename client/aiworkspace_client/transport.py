"""Makes calls, with credentials, deadlines and retries."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc.aio
from google.protobuf.message import Message

from aiworkspace.v1 import auth_pb2
from aiworkspace_client import errors
from aiworkspace_client.channel import close_channel, open_channel
from aiworkspace_client.tokens import TokenKeeper, Tokens, TokenStore

T = TypeVar("T")
ResponseT = TypeVar("ResponseT", bound=Message)


@dataclass(frozen=True)
class Method(Generic[ResponseT]):
    """A method of the contract."""

    path: str
    response: type[ResponseT]
    repeatable: bool
    """Whether a call can be repeated safely."""
    public: bool
    """Whether it is called without credentials."""
    session: Callable[[ResponseT], auth_pb2.TokenPair | None] | None = None
    """Returns the tokens to use after this response; None ends the session. Unset for methods that change no tokens."""


@dataclass(frozen=True)
class Backoff:
    """Pauses between attempts, in seconds: doubled each time, half of it random."""

    first: float = 0.1
    longest: float = 5.0

    def pause(self, failures: int, retry_after: float | None) -> float:
        """Return the pause after so many consecutive failures, which is added to what the server asked for."""
        ceiling = min(self.longest, self.first * 2 ** min(failures - 1, 10))
        # Spreads retries over time; no secret depends on it.
        return (retry_after or 0.0) + random.uniform(ceiling / 2, ceiling)  # nosec B311


class Deadline:
    """The deadline of a call."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Return the seconds until the deadline, 0 after it."""
        return max(0.0, self._end - time.monotonic())

    async def within(self, awaitable: Awaitable[T]) -> T:
        """Await until the deadline at most. Raises DeadlineExceededError."""
        try:
            async with asyncio.timeout(self.left):
                return await awaitable
        except TimeoutError:
            raise errors.DeadlineExceededError("The tokens could not be refreshed in time.") from None


class Transport:
    """Makes calls to one server, all in the event loop of the first call."""

    def __init__(
        self,
        target: str,
        *,
        store: TokenStore,
        tls: bool | None = None,
        root_certificates: bytes | None = None,
        timeout: float = 30.0,
        backoff: Backoff | None = None,
    ) -> None:
        self._target, self._tls, self._root_certificates = target, tls, root_certificates
        self._timeout = timeout
        self.backoff = backoff or Backoff()
        self.tokens = TokenKeeper(store, self._refresh)
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.closed = False

    async def unary(self, method: Method[ResponseT], request: Message, seconds: float | None = None) -> ResponseT:
        """Call a method. The seconds are for everything: refreshing tokens, retries, and pauses between them."""
        response = await self._repeated(method, request, Deadline(self._timeout if seconds is None else seconds))
        if method.session:
            pair = method.session(response)
            self.tokens.keep(Tokens.received(pair) if pair else None)
        return response

    def stream(
        self, method: Method[ResponseT], request: Message, tokens: Tokens | None, seconds: float
    ) -> grpc.aio.UnaryStreamCall[Any, ResponseT]:
        """Begin a stream that ends after so many seconds. Reading it raises the errors of gRPC."""
        start = self._open().unary_stream(method.path, _serialize, method.response.FromString)
        return start(request, timeout=seconds, metadata=_metadata(tokens))

    async def send_stream(
        self,
        method: Method[ResponseT],
        requests: AsyncIterator[Message],
        tokens: Tokens | None,
        seconds: float | None,
    ) -> ResponseT:
        """Send a stream of requests and return the response. Retries nothing."""
        start = self._open().stream_unary(method.path, _serialize, method.response.FromString)
        try:
            response: ResponseT = await start(requests, timeout=seconds, metadata=_metadata(tokens))
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc(error) from error
        except asyncio.CancelledError:
            if self.cancelled_from_outside():
                raise errors.CallCancelledError("The client was closed during the call.") from None
            raise
        return response

    async def renewed(self, error: errors.UnauthenticatedError, refused: Tokens | None) -> Tokens | None:
        """Return tokens for repeating a refused call, None if there are no others or the tokens were not the reason."""
        if refused is None or error.reason not in ("", "CREDENTIALS_INVALID"):
            return None
        fresh = await self.tokens.renewed(refused)
        return None if fresh is refused else fresh

    def cancelled_from_outside(self) -> bool:
        """Return whether a CancelledError came from closing the channel, not from cancelling the current task."""
        task = asyncio.current_task()
        return self.closed and not (task and task.cancelling())

    async def close(self) -> None:
        """Cancel calls in progress and close the connection."""
        await self.tokens.settle()
        self.closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            await close_channel(channel)

    async def _repeated(self, method: Method[ResponseT], request: Message, deadline: Deadline) -> ResponseT:
        failures = 0
        while True:
            try:
                return await self._authorized(method, request, deadline)
            except errors.UnavailableError as error:
                failures += 1
                pause = self.backoff.pause(failures, error.retry_after)
                if not method.repeatable or pause >= deadline.left:
                    raise
            await asyncio.sleep(pause)

    async def _authorized(self, method: Method[ResponseT], request: Message, deadline: Deadline) -> ResponseT:
        tokens = None if method.public else await deadline.within(self.tokens.current())
        try:
            return await self._once(method, request, tokens, deadline)
        except errors.UnauthenticatedError as error:
            fresh = await deadline.within(self.renewed(error, tokens))
            if fresh is None:
                raise
        return await self._once(method, request, fresh, deadline)

    async def _once(
        self, method: Method[ResponseT], request: Message, tokens: Tokens | None, deadline: Deadline
    ) -> ResponseT:
        call = self._open().unary_unary(method.path, _serialize, method.response.FromString)
        try:
            return await call(request, timeout=deadline.left, metadata=_metadata(tokens))
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc(error) from error
        except asyncio.CancelledError:
            if self.cancelled_from_outside():
                raise errors.CallCancelledError("The client was closed during the call.") from None
            raise

    def _open(self) -> grpc.aio.Channel:
        """Return the channel. A channel belongs to an event loop, so a new loop gets a new channel."""
        loop = asyncio.get_running_loop()
        if self.closed:
            raise RuntimeError("The client is closed.")
        if self._channel is None or self._loop is not loop:
            self._adopt(loop)
            self._channel = open_channel(self._target, tls=self._tls, root_certificates=self._root_certificates)
        return self._channel

    def _adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None and self._loop.is_running():
            raise RuntimeError("An AsyncClient belongs to one event loop; use one client for each, or Client.")
        self._loop = loop

    async def _refresh(self, refresh_token: str) -> auth_pb2.TokenPair:
        response = await self.unary(_REFRESH, auth_pb2.RefreshRequest(refresh_token=refresh_token))
        return response.tokens


# Calls of other methods use this one.
_REFRESH = Method("/aiworkspace.v1.AuthService/Refresh", auth_pb2.RefreshResponse, repeatable=True, public=True)


def _serialize(request: Message) -> bytes:
    return request.SerializeToString()


def _metadata(tokens: Tokens | None) -> list[tuple[str, str | bytes]]:
    return [("authorization", f"Bearer {tokens.access_token}")] if tokens else []
