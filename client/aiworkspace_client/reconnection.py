"""What streams, uploads and downloads do after a broken connection."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

import grpc
from google.protobuf.message import Message

from aiworkspace_client import errors
from aiworkspace_client.tokens import Tokens
from aiworkspace_client.transport import Deadline, Method, ResponseT, Transport


class Reconnection:
    """Decides after an error whether to connect again, and waits before that."""

    def __init__(
        self,
        transport: Transport,
        deadline: Deadline | None,
        give_up: float,
        overdue: str,
        is_cut: Callable[[errors.AiWorkspaceError], bool] = errors.is_cut,
    ) -> None:
        """Connect again for `give_up` seconds without progress, and after errors that `is_cut` accepts.

        `overdue`: what to say when the deadline is over.
        """
        self._transport = transport
        self._deadline = deadline
        self._give_up = give_up
        self._overdue = overdue
        self._is_cut = is_cut
        self._tokens: Tokens | None = None
        self._renewed = False
        self._failures = 0
        self._failing_since = 0.0

    async def tokens(self) -> Tokens | None:
        """Return the tokens for the next connection."""
        self._tokens = await self._transport.tokens.current()
        return self._tokens

    def seconds(self, most: float) -> float:
        """Return how long something may take: `most`, or until the deadline if that is earlier."""
        return most if self._deadline is None else min(most, self._deadline.left)

    async def responses(
        self, method: Method[ResponseT], request: Message, most_seconds: float
    ) -> AsyncGenerator[ResponseT, None]:
        """Yield what one connection brings, for at most so many seconds. Raises its end as a typed error."""
        call = self._transport.stream(method, request, await self.tokens(), self.seconds(most_seconds))
        try:
            while isinstance(response := await call.read(), method.response):
                yield response
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc(error) from error
        finally:
            call.cancel()

    def progressed(self) -> None:
        """Reset the count of failures."""
        self._failures, self._renewed = 0, False

    async def recover(self, error: errors.AiWorkspaceError) -> None:
        """Wait before a reconnection. Raises the error if a reconnection cannot help."""
        if self._deadline is not None and not self._deadline.left:
            raise errors.DeadlineExceededError(self._overdue) from error
        if isinstance(error, errors.UnauthenticatedError):
            try:
                if await self._renew(error):
                    return
            except errors.UnavailableError as unavailable:
                error = unavailable
        if self._transport.closed or not self._is_cut(error):
            raise error
        await self._pause(error)

    async def _renew(self, error: errors.UnauthenticatedError) -> bool:
        """Refresh the tokens, at most once without progress. Return whether they were refreshed."""
        if self._renewed:
            return False
        self._renewed = await self._transport.renewed(error, self._tokens) is not None
        return self._renewed

    async def _pause(self, error: errors.AiWorkspaceError) -> None:
        self._failures += 1
        if self._failures == 1:
            self._failing_since = time.monotonic()
        pause = self._transport.backoff.pause(self._failures, error.retry_after)
        if time.monotonic() - self._failing_since + pause > self._give_up:
            raise error
        await asyncio.sleep(self.seconds(pause))
