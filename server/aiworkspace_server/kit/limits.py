"""Rate limits: how many calls per minute the contract allows to one caller, right across processes with Redis."""

import time
from ipaddress import ip_network
from typing import Any

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from redis.asyncio import ConnectionPool

from .context import Call
from .contract import Method
from .errors import RateLimited
from .interceptors import Handler

log = structlog.get_logger("limits")


class Limits:
    """The step that counts calls. The caller is the signed-in user, for public methods the network address."""

    def __init__(self, redis_url: str | None, factor: float) -> None:
        self._pool = ConnectionPool.from_url(redis_url) if redis_url else None
        self._limiter = SlidingWindowCounterRateLimiter(_redis(self._pool) if self._pool else MemoryStorage())
        self._factor = factor

    async def close(self) -> None:
        """Closes the connections to Redis."""
        if self._pool:
            await self._pool.aclose()

    def step(self, method: Method, proceed: Handler) -> Handler:
        allowed = RateLimitItemPerMinute(max(1, round(method.calls_per_minute * self._factor)))
        group = str(method.rate_limit)

        async def handler(call: Call, request: Any) -> Any:
            caller = str(call.user_id or _network(call.peer))
            if not await self._hit(allowed, group, caller):
                raise await self._refusal(allowed, group, caller)
            return await proceed(call, request)

        return handler

    async def _hit(self, allowed: RateLimitItemPerMinute, group: str, caller: str) -> bool:
        try:
            return await self._limiter.hit(allowed, group, caller)
        except StorageError:
            log.warning("rate limits are not counted", exc_info=True)  # a limit is not worth an outage
            return True

    async def _refusal(self, allowed: RateLimitItemPerMinute, group: str, caller: str) -> RateLimited:
        window = await self._limiter.get_window_stats(allowed, group, caller)
        wait = max(0.1, window.reset_time - time.time())
        message = f"More than {allowed.amount} calls of this kind in a minute; go on in {wait:.0f} s."
        return RateLimited(f"caller:{caller}", message, wait)


def _network(address: str) -> str:
    """The address, for IPv6 the /64 in which one customer has all addresses."""
    if ":" not in address:
        return address
    return str(ip_network((address.partition("%")[0], 64), strict=False))


def _redis(pool: ConnectionPool) -> RedisStorage:
    options: Any = {"connection_pool": pool}  # typed as if it took plain values alone
    return RedisStorage("async+redis://", wrap_exceptions=True, implementation="redispy", **options)
