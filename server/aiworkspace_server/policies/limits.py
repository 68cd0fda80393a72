"""The limits of model policies: requests and tokens per minute. With Redis they hold across processes."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

from limits import RateLimitItemPerMinute
from limits.aio.storage import SlidingWindowCounterSupport
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from ..kit.errors import RateLimited
from ..kit.limits import Counters, LimitState
from .policy import Limit, covers

_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class _Meter:
    """One counter that a request adds to."""

    name: str
    item: RateLimitItemPerMinute
    key: tuple[str, ...]
    cost: int


class ModelLimits:
    """The limits of a workspace. Each comes with "organization" or "workspace" and the id of that."""

    def __init__(self, counters: Counters, limits: Sequence[tuple[str, UUID, Limit]]) -> None:
        self._counters = counters
        self._limits = limits

    async def take(self, model: str, tokens: int) -> None:
        """Count one request with its input tokens and maximum output tokens. Raises RateLimited and counts nothing."""
        meters = list(self._meters(model, tokens))
        for state in await self._look(meters):
            if not state.fits:
                raise _refusal(state, tokens)
        for meter in meters:
            if not await self._hit(meter):  # a concurrent request took it
                raise _refusal(await self._state(meter), tokens)

    async def look(self, model: str, tokens: int) -> list[LimitState]:
        """Return every limit that such a request would count in. Counts nothing."""
        return await self._look(list(self._meters(model, tokens)))

    def _meters(self, model: str, tokens: int) -> Iterator[_Meter]:
        for scope, scope_id, limit in self._limits:
            if not covers(limit.model, model):
                continue
            for kind, amount, cost in (
                ("requests", limit.requests_per_minute, 1),
                ("tokens", limit.tokens_per_minute, tokens),
            ):
                if amount:
                    name = f"{kind} of {limit.model} in the {scope}"
                    yield _Meter(name, RateLimitItemPerMinute(amount), (kind, str(scope_id), limit.model), cost)

    async def _look(self, meters: Sequence[_Meter]) -> list[LimitState]:
        return await asyncio.gather(*map(self._state, meters))

    async def _hit(self, meter: _Meter) -> bool:
        return await self._counters.ask(
            SlidingWindowCounterRateLimiter, lambda limiter: limiter.hit(meter.item, *meter.key, cost=meter.cost)
        )

    async def _state(self, meter: _Meter) -> LimitState:
        window = await self._counters.ask(_Window, lambda limiter: limiter.counts(meter.item, *meter.key))
        left = max(0, meter.item.amount - int(window.counted))
        reset = datetime.fromtimestamp(time.time() + window.empty_seconds, UTC)
        wait = None if meter.cost > meter.item.amount else window.seconds_until(meter.item.amount - meter.cost)
        return LimitState(meter.name, meter.item.amount, left, reset, wait == 0, wait)


NO_LIMITS = ModelLimits(Counters(None), ())


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts of this minute and of the one before it, whose weight decreases."""

    before: int
    now: int
    left_seconds: float  # until the end of this minute; 0 if nothing was counted

    @property
    def counted(self) -> float:
        return self.before * self.left_seconds / _MINUTE + self.now

    @property
    def empty_seconds(self) -> float:
        return self.left_seconds + (_MINUTE if self.now else 0.0)

    def seconds_until(self, most: int) -> float:
        """Return the time until at most `most` are counted, if nothing is added. Fractions are ignored."""
        if self.counted < most + 1:
            return 0.0
        if self.before and self.now < most + 1:
            return self.left_seconds - (most + 1 - self.now) * _MINUTE / self.before
        return self.left_seconds + _MINUTE * (1 - (most + 1) / self.now)


class _Window(SlidingWindowCounterRateLimiter):
    """The strategy, with access to its counts."""

    async def counts(self, item: RateLimitItemPerMinute, *key: str) -> Counts:
        storage = cast(SlidingWindowCounterSupport, self.storage)
        before, left, now, kept = await storage.get_sliding_window(item.key_for(*key), item.get_expiry())
        return Counts(before, now, left if before else max(0.0, kept - _MINUTE) if now else 0.0)


def _refusal(state: LimitState, tokens: int) -> RateLimited:
    if state.retry_seconds is None:
        message = f"This request may take {tokens} tokens; the limit is {state.limit} {state.name} per minute."
        return RateLimited(state.name, message, None, metadata={"limit": state.name})
    wait = max(0.1, state.retry_seconds)
    message = f"The limit is {state.limit} {state.name} per minute; retry in {wait:.0f} s."
    return RateLimited(state.name, message, wait, metadata={"limit": state.name})
