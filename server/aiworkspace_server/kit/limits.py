"""Rate limits: how many calls per minute the contract allows one caller. With Redis they hold across processes."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import structlog
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import RateLimiter, SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from redis.asyncio import ConnectionPool, Redis

from .addresses import network_of
from .call_limits import OwnLimit, class_name
from .context import Call
from .contract import Method
from .errors import RateLimited
from .interceptors import Handler
from .windows import WindowStorage

REDIS_SECONDS = 1  # timeout of a request to Redis
_AWAY_SECONDS = 5  # how long Redis is not asked after a request failed
# uvloop raises RuntimeError if a connection was reset between being opened and being written to.
_UNAVAILABLE = (StorageError, RuntimeError)

Answer = TypeVar("Answer")
Strategy = TypeVar("Strategy", bound=RateLimiter)

log = structlog.get_logger("limits")


class Counters:
    """Counters in Redis; without Redis, and while it is unavailable, in the memory of this process."""

    def __init__(self, redis_url: str | None, away_seconds: float = _AWAY_SECONDS) -> None:
        self._pool = _pool(redis_url) if redis_url else None
        self._redis = _redis(self._pool) if self._pool else None
        self._memory = WindowStorage()
        self._away_seconds = away_seconds
        self._away_until = 0.0  # by the monotonic clock

    async def close(self) -> None:
        """Closes the connections to Redis."""
        if self._pool:
            await self._pool.aclose()

    @property
    def has_redis(self) -> bool:
        return self._pool is not None

    async def ping(self) -> None:
        """Ask Redis for nothing."""
        assert self._pool
        await Redis(connection_pool=self._pool).ping()

    async def ask(self, strategy: type[Strategy], question: Callable[[Strategy], Awaitable[Answer]]) -> Answer:
        """Return the answer of the strategy, from the counters in use."""
        if self._redis and time.monotonic() >= self._away_until:
            try:
                return await question(strategy(self._redis))
            except _UNAVAILABLE:
                log.warning("redis_unavailable", limits="counted per process", exc_info=True)
                self._away_until = time.monotonic() + self._away_seconds
        return await question(strategy(self._memory))

    async def hit(self, allowed: RateLimitItem, *key: str) -> bool:
        """Count a hit in a sliding window. Returns False, and counts nothing, if it would exceed the limit."""
        return await self.ask(SlidingWindowCounterRateLimiter, lambda limiter: limiter.hit(allowed, *key))

    def fast_hit(self, allowed: RateLimitItem, group: str) -> Callable[[str], bool] | None:
        """Return a function that does what `hit` does for one group, at a fraction of the cost; None with Redis."""
        if self._redis:
            return None
        amount, expiry, hit = allowed.amount, allowed.get_expiry(), self._memory.hit
        before, after = allowed.key_for(group, "\0").split("\0")
        return lambda caller: hit(f"{before}{caller}{after}", amount, expiry)


class CallsPerMinute(RateLimitItemPerMinute):
    """A limit whose count goes on when the limit changes: otherwise each change would allow as many calls again."""

    def key_for(self, *identifiers: bytes | str | float) -> str:
        return f"{self.namespace}/{'/'.join(map(str, identifiers))}/calls"


@dataclass(frozen=True, slots=True)
class LimitState:
    """A limit per minute, and how much of it a caller has left."""

    name: str
    limit: int
    remaining: int
    reset_time: datetime  # when the whole limit is available again, without further calls
    fits: bool
    retry_seconds: float | None = None  # after which the call would be allowed; None: unknown, or never


class Limits:
    """The step that counts calls or, in a dialogue, the caller's messages.

    The caller is the signed-in user, for public methods the network address. Calls with a key that has a limit of its
    own are counted for the key, too.
    """

    def __init__(self, counters: Counters, factor: float) -> None:
        self._counters = counters
        self._factor = factor

    def step(self, method: Method, proceed: Handler) -> Handler:
        allowed, group = self._allowed(method)
        fast_hit = self._counters.fast_hit(allowed, group)

        async def count(call: Call) -> None:
            own = call.own_limits.get(method.rate_limit) if call.own_limits else None
            if own:
                return await self._count_own(own, group, caller_of(call))
            caller = caller_of(call)
            if not (fast_hit(caller) if fast_hit else await self._counters.hit(allowed, group, caller)):
                raise await self._refusal(allowed, group, caller)
            return None

        async def counted(call: Call, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for request in requests:
                await count(call)
                yield request

        async def dialogue(call: Call, requests: Any) -> Any:
            return await proceed(call, counted(call, requests))

        async def handler(call: Call, request: Any) -> Any:
            await count(call)
            return await proceed(call, request)

        return dialogue if method.is_dialogue else handler

    async def look(self, method: Method, call: Call) -> list[LimitState]:
        """Return how much the caller has left of the limits of the method's class. Counts nothing."""
        allowed, group = self._allowed(method)
        kind, caller = f"{class_name(method.rate_limit)} calls of the", caller_of(call)
        own = call.own_limits.get(method.rate_limit) if call.own_limits else None
        if own is None:
            return [await self._state(f"{kind} caller", allowed, group, caller)]
        states = [await self._state(f"{kind} caller", CallsPerMinute(own.account.calls_per_minute), group, caller)]
        if own.key:
            limit = CallsPerMinute(own.key.calls_per_minute)
            states.append(await self._state(f"{kind} API key", limit, group, own.key_name))
        return states

    async def _state(self, name: str, allowed: CallsPerMinute, group: str, caller: str) -> LimitState:
        window = await self._ask(lambda limiter: limiter.get_window_stats(allowed, group, caller))
        reset = datetime.fromtimestamp(max(window.reset_time, time.time()), UTC)
        left = max(0, window.remaining)
        return LimitState(name, allowed.amount, left, reset, left > 0)

    async def _count_own(self, own: OwnLimit, group: str, caller: str) -> None:
        """Count a call for the key, then for its account, so that a key above its limit takes nothing from others."""
        counted = ((own.key, own.key_name), (own.account, caller))
        for limit, name in counted:
            if limit and not await self._counters.hit(allowed := CallsPerMinute(limit.calls_per_minute), group, name):
                raise await self._refusal(allowed, group, name)

    def _allowed(self, method: Method) -> tuple[CallsPerMinute, str]:
        """Return the limit of the method, and the group of methods that share it."""
        return CallsPerMinute(max(1, round(method.calls_per_minute * self._factor))), str(method.rate_limit)

    async def _refusal(self, allowed: CallsPerMinute, group: str, caller: str) -> RateLimited:
        window = await self._ask(lambda limiter: limiter.get_window_stats(allowed, group, caller))
        wait = max(0.1, window.reset_time - time.time())
        message = f"More than {allowed.amount} calls of this kind in a minute; go on in {wait:.0f} s."
        return RateLimited(f"caller:{caller}", message, wait)

    async def _ask(self, question: Callable[[RateLimiter], Awaitable[Answer]]) -> Answer:
        return await self._counters.ask(SlidingWindowCounterRateLimiter, question)


def caller_of(call: Call) -> str:
    """Return who is limited: the signed-in user or, for public methods, the network. For use after authentication."""
    if not call.limited_as:
        call.limited_as = str(call.user_id or network_of(call.address))
    return call.limited_as


def _pool(url: str) -> ConnectionPool:
    return ConnectionPool.from_url(url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS)


def _redis(pool: ConnectionPool) -> RedisStorage:
    options: Any = {"connection_pool": pool}  # the annotation allows plain values only
    return RedisStorage("async+redis://", wrap_exceptions=True, implementation="redispy", **options)
