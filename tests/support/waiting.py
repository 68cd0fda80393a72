"""Waiting for what tells nobody that it happened."""

import asyncio
from collections.abc import Awaitable, Callable


async def until(come: Callable[[], Awaitable[object]], seconds: float = 240) -> None:
    """Asks again and again. The limit is for what never comes: it is long enough for any machine."""
    async with asyncio.timeout(seconds):
        while True:
            if await come():
                return
            await asyncio.sleep(0.01)


async def until_true(come: Callable[[], object], seconds: float = 240) -> None:
    """The same for what need not be waited for."""

    async def ask() -> object:
        return come()

    await until(ask, seconds)
