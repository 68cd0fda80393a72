"""Probes: is what the server needs there? Each is asked every two seconds and has a second to answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import structlog

from .tasks import cancel_all

PERIOD_SECONDS = 2.0
_ANSWER_SECONDS = 0.9  # so that what has gone is known within three seconds

Ask = Callable[[], Awaitable[object]]
log = structlog.get_logger("probes")


class Probes:
    """Asks by name; `up` has the last answers, all true before the first. `on_answers` is called after each round."""

    def __init__(self, asks: Mapping[str, Ask], on_answers: Callable[[Mapping[str, bool]], Awaitable[None]]) -> None:
        self.up = dict.fromkeys(asks, True)
        self._asks = asks
        self._on_answers = on_answers

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask until the context ends."""
        asking = asyncio.create_task(self._repeat())
        try:
            yield
        finally:
            await cancel_all([asking])

    async def _repeat(self) -> None:
        while True:
            begin = time.monotonic()
            await asyncio.gather(*map(self._probe, self._asks))
            await self._on_answers(self.up)
            await asyncio.sleep(max(0.0, begin + PERIOD_SECONDS - time.monotonic()))

    async def _probe(self, name: str) -> None:
        error: Exception | None = None
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._asks[name]()
        except Exception as failure:
            error = failure
        if (up := error is None) != self.up[name]:
            self.up[name] = up
            if error:
                log.error("store_away", store=name, error=type(error).__name__)
            else:
                log.info("store_back", store=name)
