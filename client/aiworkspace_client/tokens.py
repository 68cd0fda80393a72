"""The tokens of a session, where they are stored, and their refresh."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass

from aiworkspace.v1 import auth_pb2
from aiworkspace_client.errors import AiWorkspaceError, UnauthenticatedError

# An access token is refreshed this many seconds before it expires, or this fraction of its lifetime if that is shorter.
_EARLY_SECONDS = 30.0
_EARLY_PART = 0.2
# How long a call waits for a refresh while its token is still valid; the delay after a failed refresh. In seconds.
_WAIT_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Tokens:
    """The tokens of a session."""

    access_token: str
    refresh_token: str = ""
    """Empty when the session cannot be refreshed."""
    refresh_time: float | None = None
    """When to refresh the access token, in seconds since 1970. None: when the server refuses it."""

    @classmethod
    def received(cls, pair: auth_pb2.TokenPair) -> "Tokens":
        """Return tokens that have just arrived.

        A token that is expired on arrival means that the local clock is wrong. It is then used until it is refused,
        because a refresh before every call would be worse.
        """
        lifetime = pair.access_expire_time.ToNanoseconds() / 1e9 - time.time()
        early = min(_EARLY_SECONDS, lifetime * _EARLY_PART)
        return cls(pair.access_token, pair.refresh_token, time.time() + lifetime - early if lifetime > 0 else None)

    @property
    def due(self) -> bool:
        """Return whether it is time to refresh the access token."""
        over = self.refresh_time is not None and time.time() >= self.refresh_time
        return bool(self.refresh_token) and (over or not self.access_token)


class TokenStore:
    """Keeps the tokens of one client in memory.

    Subclass it to keep them elsewhere: load is called at the first call and before every refresh, save after every
    change. Several processes may share a session when their stores share load, save and exclusive.
    """

    def __init__(self, tokens: Tokens | None = None) -> None:
        self._tokens = tokens

    def load(self) -> Tokens | None:
        """Return the tokens that were saved last, None if nobody is signed in."""
        return self._tokens

    def save(self, tokens: Tokens | None) -> None:
        """Store the tokens; None when the session has ended."""
        self._tokens = tokens

    def exclusive(self) -> AbstractAsyncContextManager[object]:
        """Held while tokens are refreshed, since a refresh token works once."""
        return nullcontext()


class TokenKeeper:
    """Returns the access token and refreshes it in time, once for all waiting callers."""

    def __init__(self, store: TokenStore, refresh: Callable[[str], Awaitable[auth_pb2.TokenPair]]) -> None:
        self._store = store
        self._refresh = refresh
        self._tokens: Tokens | None = None
        self._loaded = False
        self._renewal: asyncio.Task[Tokens | None] | None = None
        self._patience = 0.0
        """When to retry a refresh that failed before it was needed, on the monotonic clock."""

    def peek(self) -> Tokens | None:
        """Return the current tokens without a refresh."""
        if not self._loaded:
            self._tokens, self._loaded = self._store.load(), True
        return self._tokens

    def keep(self, tokens: Tokens | None) -> None:
        """Use these tokens from now on."""
        self._tokens, self._loaded = tokens, True
        self._store.save(tokens)

    async def current(self) -> Tokens | None:
        """Return the tokens for the next call, refreshed if it is time."""
        tokens = self.peek()
        if tokens is None or not tokens.due or time.monotonic() < self._patience:
            return tokens
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                return await self.renewed(tokens)
        except (AiWorkspaceError, TimeoutError):
            return tokens  # probably still valid; otherwise the server refuses it and the call is repeated

    async def renewed(self, stale: Tokens) -> Tokens | None:
        """Return tokens other than the stale ones, None if the session has ended.

        The refresh continues if its first caller is cancelled: others wait for it, and losing the successor of a used
        refresh token would end the session.
        """
        if self.peek() is not stale:
            return self._tokens
        renewal = self._running()
        if renewal is None:
            renewal = self._renewal = asyncio.create_task(self._renew(stale))
            renewal.add_done_callback(self._note_failure)
        return await asyncio.shield(renewal)

    async def settle(self) -> None:
        """Wait briefly for a refresh in progress, whose response must not be lost. Called before closing."""
        if renewal := self._running():
            await asyncio.wait({renewal}, timeout=_WAIT_SECONDS)

    def _running(self) -> "asyncio.Task[Tokens | None] | None":
        """Return the refresh in progress. One of a closed event loop never ends and does not count."""
        renewal = self._renewal
        if renewal is None or renewal.done() or renewal.get_loop() is not asyncio.get_running_loop():
            return None
        return renewal

    def _note_failure(self, renewal: "asyncio.Task[Tokens | None]") -> None:
        error = None if renewal.cancelled() else renewal.exception()
        if isinstance(error, AiWorkspaceError):
            self._patience = time.monotonic() + (error.retry_after or _PATIENCE_SECONDS)

    async def _renew(self, stale: Tokens) -> Tokens | None:
        async with self._store.exclusive():
            saved = self._store.load()
            if saved is None or saved.access_token != stale.access_token:
                self._tokens = saved  # another process that shares the store has refreshed them
            elif saved.refresh_token:
                await self._exchange(saved)
        return self._tokens

    async def _exchange(self, tokens: Tokens) -> None:
        try:
            self.keep(Tokens.received(await self._refresh(tokens.refresh_token)))
        except UnauthenticatedError as error:
            if not error.session_ended:  # refused, but perhaps only by a server with other keys
                raise
            self.keep(None)
