"""Throttling of password guesses that never locks out a device that its owner has signed in on.

Wrong passwords are counted per account, except those of a known device, which has a count of its own. So strangers
use up what strangers have. Unknown addresses are counted as accounts are, so that nothing tells them apart.
"""

import asyncio
import hmac
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.strategies import FixedWindowRateLimiter, RateLimiter

from aiworkspace.v1 import common_pb2 as pb

from ..kit.errors import RateLimited, Unavailable
from ..kit.limits import Counters

WRONG_PASSWORDS = RateLimitItemPerMinute(10, multiples=15, namespace="wrong-passwords")
FIRST_ATTEMPTS = RateLimitItemPerMinute(10, multiples=15, namespace="first-attempts")

Answer = TypeVar("Answer")


class LoginThrottle:
    """Counts wrong passwords. The window begins with the first, so that its end can be told."""

    def __init__(self, counters: Counters, key: bytes, wrong_passwords: RateLimitItem = WRONG_PASSWORDS) -> None:
        """`wrong_passwords`: how many in which time."""
        self._counters = counters
        self._key = key
        self.wrong_passwords = wrong_passwords
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of_account(self, email: str) -> str:
        """Where the attempts of unknown devices at an account are counted, whether there is one or not."""
        return f"account:{self._hash(email)}"

    def of_device(self, device_id: UUID, password_hash: str) -> str:
        """Where those of a known device are: at one password, so that with a new one, as after a reset, none are."""
        return f"device:{device_id}:{self._hash(password_hash)}"

    def of_session(self, session_id: UUID) -> str:
        """Where the attempts of somebody who is signed in are counted."""
        return f"session:{session_id}"

    @asynccontextmanager
    async def attempt(self, whose: str) -> AsyncIterator[None]:
        """Around the check of a password, which raises when it is wrong. Raises RateLimited after too many of those.

        An attempt is counted before the check, and taken off by a success, so that ever so many at once are as few
        that reach the hash. They take turns, so that ever so many right ones are not taken for wrong ones.
        """
        async with self._turns.setdefault(whose, asyncio.Lock()):
            if not await self._ask(lambda limiter: limiter.hit(self.wrong_passwords, whose)):
                raise await self._refusal(whose)
            try:
                yield
            except Unavailable:  # before anything was checked
                await self._ask(lambda limiter: limiter.hit(self.wrong_passwords, whose, cost=-1))
                raise
            await self._ask(lambda limiter: limiter.clear(self.wrong_passwords, whose))

    async def goes_first(self, whose: UUID) -> bool:
        """Whether the attempt, of a known device or a session, is to be checked before those of strangers.

        So are the first ones in a while, right or wrong: else somebody with many accounts would be ahead of everybody.
        """
        return await self._ask(lambda limiter: limiter.hit(FIRST_ATTEMPTS, str(whose)))

    async def lift(self, email: str) -> None:
        """Forget the wrong passwords for an account whose owner has proved by mail who they are."""
        await self._ask(lambda limiter: limiter.clear(self.wrong_passwords, self.of_account(email)))

    def _hash(self, text: str) -> str:
        """With a key, so that what is counted gives nothing away."""
        return hmac.digest(self._key, text.encode(), "sha256").hex()

    async def _refusal(self, whose: str) -> RateLimited:
        window = await self._ask(lambda limiter: limiter.get_window_stats(self.wrong_passwords, whose))
        wait = max(1, math.ceil(window.reset_time - time.time()))
        kind = whose.partition(":")[0]
        elsewhere = ", or on a device that has signed in before" if kind == "account" else ""
        message = f"Too many wrong passwords; go on in {wait} s{elsewhere}."
        return RateLimited(kind, message, wait, pb.ERROR_REASON_SIGN_IN_THROTTLED)

    async def _ask(self, question: Callable[[RateLimiter], Awaitable[Answer]]) -> Answer:
        return await self._counters.ask(FixedWindowRateLimiter, question)
