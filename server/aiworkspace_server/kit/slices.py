"""Long work on the event loop, in slices between which others have their turn."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

_SLICE = 200  # items, each of which takes some ten microseconds

T = TypeVar("T")


async def in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    """Yield the items, and let other tasks run after each slice."""
    for number, item in enumerate(items, 1):
        yield item
        if number % _SLICE == 0:
            await asyncio.sleep(0)
