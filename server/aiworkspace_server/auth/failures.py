"""Limits failed credentials: an address that guesses is refused before anything is looked up; others are not.

What can be checked without a query never costs one: signatures of tokens, the form of API keys, sessions that were
found to have ended. Each failure counts for the network address that it came from. Above the limit of the contract,
credentials from there that this process does not know are refused; tokens with a good signature and keys that worked
lately go on working, so that a guesser behind the same address as other callers does not harm them.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID
from weakref import WeakValueDictionary

from cachetools import TTLCache
from limits import RateLimitItemPerMinute
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from aiworkspace.v1 import options_pb2 as options

from ..kit.addresses import network_of
from ..kit.errors import RateLimited, Unauthenticated
from ..kit.limits import Counters
from .tokens import Claims, TokenExpired

_CLASS = options.RateLimitClass.DESCRIPTOR.values_by_number[options.RATE_LIMIT_CLASS_FAILED_CREDENTIALS]
LOOK_UPS_AT_ONCE = 4  # of unknown credentials from one address, so that few are looked up before failures count
_MOST_REMEMBERED = 50_000
_GOOD_SECONDS = 900.0
_REFUSED_SECONDS = 1.0  # for which an address is refused without asking the counters again
# An ended session stays ended, but for one that is refreshed by a server whose clock is behind.
_ENDED_SECONDS = 10.0


class Failures:
    """Counts failed credentials by network address. `clock`: in seconds, for how long a credential stays known."""

    def __init__(self, counters: Counters, factor: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._counters = counters
        per_minute = _CLASS.GetOptions().Extensions[options.calls_per_minute]
        self._allowed = RateLimitItemPerMinute(max(1, round(per_minute * factor)), namespace="failed-credentials")
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._good: TTLCache[bytes, None] = TTLCache(_MOST_REMEMBERED, _GOOD_SECONDS, clock)
        self._refused: TTLCache[str, float] = TTLCache(_MOST_REMEMBERED, _REFUSED_SECONDS)
        self._ended: TTLCache[UUID, None] = TTLCache(_MOST_REMEMBERED, _ENDED_SECONDS)

    @asynccontextmanager
    async def attempt(self, address: str, credential: bytes | None = None) -> AsyncIterator[None]:
        """Wrap a check of credentials, which raises Unauthenticated if they are bad.

        Raises RateLimited instead of running it after too many failures from the address. `credential` is a hash of
        what is checked, by which it is remembered when it is good.
        """
        network = network_of(address)
        if credential is not None and credential in self._good:
            try:
                yield
            except Unauthenticated:
                self._good.pop(credential, None)
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
        """What a check of a signed token gives. A good signature cannot be guessed, so only failures are limited.

        Raises Unauthenticated, or RateLimited after too many failures; an expired token of ours counts as none.
        """
        try:
            return check()
        except TokenExpired:
            raise
        except Unauthenticated:
            async with self.attempt(address):
                raise

    def note_end(self, session_id: UUID) -> None:
        """The session was found to have ended."""
        self._ended[session_id] = None

    def has_ended(self, session_id: UUID) -> bool:
        """Whether the session was found to have ended a moment ago."""
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
        message = f"Too many bad credentials came from this address; go on in {wait} s."
        return RateLimited(f"address:{network}", message, wait)
