"""Waiting for what tells nobody that it happened."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

Found = TypeVar("Found")


async def until(come: Callable[[], Awaitable[Found]], seconds: float = 240) -> Found:
    """Asks again and again, and returns the first answer that is true.

    The limit is for what never comes: it is long enough for any machine.
    """
    async with asyncio.timeout(seconds):
        while True:
            if found := await come():
                return found
            await asyncio.sleep(0.01)


async def until_true(come: Callable[[], Found], seconds: float = 240) -> Found:
    """The same for what need not be waited for."""

    async def ask() -> Found:
        return come()

    return await until(ask, seconds)
