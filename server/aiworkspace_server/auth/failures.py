"""Limits failed credentials per network address, before they cost a query.

Signatures of tokens, the form of API keys, and sessions that were found to have ended are checked without a query. Each
failure counts for the network address of the call. Above the limit of the contract, credentials from there that this
process does not know are refused. Tokens with a valid signature and recently used keys still work, so that a guesser
does not harm other callers behind the same address.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID
from weakref import WeakValueDictionary

from limits import RateLimitItemPerMinute
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from aiworkspace.v1 import options_pb2 as options

from ..kit.addresses import network_of
from ..kit.caches import TtlCache
from ..kit.errors import RateLimited, Unauthenticated
from ..kit.limits import Counters
from .tokens import Claims, TokenExpired

_CLASS = options.RateLimitClass.DESCRIPTOR.values_by_number[options.RATE_LIMIT_CLASS_FAILED_CREDENTIALS]
LOOK_UPS_AT_ONCE = 4  # concurrent lookups of unknown credentials per address: few happen before failures count
_MOST_REMEMBERED = 50_000
_GOOD_SECONDS = 900.0
_REFUSED_SECONDS = 1.0  # during which an address is refused without reading the counters again
# An ended session stays ended, unless a server whose clock is behind refreshes it.
_ENDED_SECONDS = 10.0


class Failures:
    """Counts failed credentials by network address. `clock` returns seconds, for how long credentials stay known."""

    def __init__(self, counters: Counters, factor: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._counters = counters
        per_minute = _CLASS.GetOptions().Extensions[options.calls_per_minute]
        self._allowed = RateLimitItemPerMinute(max(1, round(per_minute * factor)), namespace="failed-credentials")
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._good: TtlCache[bytes, None] = TtlCache(_MOST_REMEMBERED, _GOOD_SECONDS, clock)
        self._refused: TtlCache[str, float] = TtlCache(_MOST_REMEMBERED, _REFUSED_SECONDS)
        self._ended: TtlCache[UUID, None] = TtlCache(_MOST_REMEMBERED, _ENDED_SECONDS)

    @asynccontextmanager
    async def attempt(self, address: str, credential: bytes | None = None) -> AsyncIterator[None]:
        """Wrap a check of credentials, which raises Unauthenticated if they are bad.

        After too many failures from the address, raises RateLimited instead of running the check. `credential` is a
        hash of the credential, by which a good one is remembered.
        """
        network = network_of(address)
        if credential is not None and credential in self._good:
            try:
                yield
            except Unauthenticated:
                self._good.remove(credential)
                await self._count(network)
                raise
            self._good[credential] = None
            return
        self._check_refused(network)
        async with self._turns.setdefault(network, asyncio.Semaphore(LOOK_UPS_AT_ONCE)):
            await self._check(network)
            try:
                yield
            except Unauthenticated:
                await self._count(network)
                raise
        if credential is not None:
            self._good[credential] = None

    async def checked(self, address: str, check: Callable[[], Claims]) -> Claims:
        """Return the claims of a signed token. A valid signature cannot be guessed, so only failures are limited.

        Raises Unauthenticated, or RateLimited after too many failures. Our own expired tokens do not count as failures.
        """
        try:
            return check()
        except TokenExpired:
            raise
        except Unauthenticated:
            async with self.attempt(address):
                raise

    def note_end(self, session_id: UUID) -> None:
        """Remember that the session was found to have ended."""
        self._ended[session_id] = None

    def has_ended(self, session_id: UUID) -> bool:
        """Return whether the session was recently found to have ended."""
        return session_id in self._ended

    async def _check(self, network: str) -> None:
        self._check_refused(network)
        question = SlidingWindowCounterRateLimiter
        if await self._counters.ask(question, lambda limiter: limiter.test(self._allowed, network)):
            return
        window = await self._counters.ask(question, lambda limiter: limiter.get_window_stats(self._allowed, network))
        self._refused[network] = window.reset_time
        raise self._refusal(network, window.reset_time)

    def _check_refused(self, network: str) -> None:
        if (reset_time := self._refused.get(network)) is not None:
            raise self._refusal(network, reset_time)

    async def _count(self, network: str) -> None:
        strategy = SlidingWindowCounterRateLimiter
        await self._counters.ask(strategy, lambda limiter: limiter.hit(self._allowed, network))

    def _refusal(self, network: str, reset_time: float) -> RateLimited:
        wait = max(1, math.ceil(reset_time - time.time()))
        message = f"Too many invalid credentials came from this address; retry in {wait} s."
        return RateLimited(f"address:{network}", message, wait)
