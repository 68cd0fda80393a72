"""Throttling of password guesses, without locking out devices on which the owner has signed in.

Wrong passwords are counted per account, except those of a known device, which has its own count: strangers use up only
the attempts of strangers. Unknown addresses are counted like accounts, so that callers cannot tell them apart.
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
    """Counts wrong passwords. The window begins with the first one, so that the error can say when it ends."""

    def __init__(self, counters: Counters, key: bytes, wrong_passwords: RateLimitItem = WRONG_PASSWORDS) -> None:
        """`wrong_passwords`: how many in which time."""
        self._counters = counters
        self._key = key
        self.wrong_passwords = wrong_passwords
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of_account(self, email: str) -> str:
        """Return the counter for attempts of unknown devices at an account, which need not exist."""
        return f"account:{self._hash(email)}"

    def of_device(self, device_id: UUID, password_hash: str) -> str:
        """Return the counter for attempts of a known device at this password; a new password starts a new count."""
        return f"device:{device_id}:{self._hash(password_hash)}"

    def of_session(self, session_id: UUID) -> str:
        """Return the counter for attempts in a session."""
        return f"session:{session_id}"

    @asynccontextmanager
    async def attempt(self, whose: str) -> AsyncIterator[None]:
        """Wrap the check of a password, which raises if it is wrong. Raises RateLimited after too many wrong passwords.

        An attempt is counted before the check, and the count is taken back if it succeeds: concurrent guesses cannot
        reach the hash more often than allowed. Attempts run one after the other, so that many concurrent attempts with
        the right password do not exceed the limit.
        """
        async with self._turns.setdefault(whose, asyncio.Lock()):
            if not await self._ask(lambda limiter: limiter.hit(self.wrong_passwords, whose)):
                raise await self._refusal(whose)
            try:
                yield
            except Unavailable:  # the password was not checked
                await self._ask(lambda limiter: limiter.hit(self.wrong_passwords, whose, cost=-1))
                raise
            await self._ask(lambda limiter: limiter.clear(self.wrong_passwords, whose))

    async def goes_first(self, whose: UUID) -> bool:
        """Return whether an attempt of a known device or session is checked before those of strangers.

        Only the first attempts in a while are, right or wrong. Otherwise an attacker with many accounts would always be
        served first.
        """
        return await self._ask(lambda limiter: limiter.hit(FIRST_ATTEMPTS, str(whose)))

    async def lift(self, email: str) -> None:
        """Forget the wrong passwords for an account whose owner has used a mailed token."""
        await self._ask(lambda limiter: limiter.clear(self.wrong_passwords, self.of_account(email)))

    def _hash(self, text: str) -> str:
        """Hash the text with a key, so that counters reveal nothing."""
        return hmac.digest(self._key, text.encode(), "sha256").hex()

    async def _refusal(self, whose: str) -> RateLimited:
        window = await self._ask(lambda limiter: limiter.get_window_stats(self.wrong_passwords, whose))
        wait = max(1, math.ceil(window.reset_time - time.time()))
        kind = whose.partition(":")[0]
        elsewhere = ", or on a device that has signed in before" if kind == "account" else ""
        message = f"Too many wrong passwords; retry in {wait} s{elsewhere}."
        return RateLimited(kind, message, wait, pb.ERROR_REASON_SIGN_IN_THROTTLED)

    async def _ask(self, question: Callable[[RateLimiter], Awaitable[Answer]]) -> Answer:
        return await self._counters.ask(FixedWindowRateLimiter, question)
