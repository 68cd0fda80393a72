"""Memory of the process: what the allocator keeps of freed memory, and what the garbage collector looks at."""

import asyncio
import ctypes
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_TRIM_SECONDS = 15.0


@asynccontextmanager
async def tended_memory() -> AsyncIterator[None]:
    """Enter this context when the server has started.

    What is there by then is exempt from garbage collection: going through it would hold the event loop for 50 ms. And
    while the context lasts, freed memory is given back to the system every few seconds: glibc keeps that of requests
    which lies among what is still used, so that a burst would be held for good.
    """
    gc.collect()
    gc.freeze()
    trimming = asyncio.create_task(_trim())
    try:
        yield
    finally:
        trimming.cancel()


async def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    while trim is not None:
        await asyncio.sleep(_TRIM_SECONDS)
        await asyncio.to_thread(trim, 0)
