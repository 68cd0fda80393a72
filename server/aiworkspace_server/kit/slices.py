"""Long work on the event loop in slices, between which other tasks run."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

_SLICE_SECONDS = 0.005

T = TypeVar("T")


async def in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    """Yield the items. Let other tasks run whenever the work on the items has taken a slice of time."""
    end = time.monotonic() + _SLICE_SECONDS
    for item in items:
        yield item
        if time.monotonic() >= end:
            await asyncio.sleep(0)
            end = time.monotonic() + _SLICE_SECONDS
