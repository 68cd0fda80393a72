"""Memory of the process: fewer objects for the garbage collector, and freed memory returned to the system."""

import asyncio
import ctypes
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_TRIM_SECONDS = 15.0


@asynccontextmanager
async def tended_memory() -> AsyncIterator[None]:
    """Exempt existing objects from garbage collection, and return freed memory to the system until the context ends.

    Enter it when the server has started: collecting all the objects of modules and descriptors would block the event
    loop for 50 ms. glibc does not return freed memory that lies between used blocks, so that after a burst of requests
    the process would stay large.
    """
    gc.collect()
    gc.freeze()
    trimming = asyncio.create_task(_trim())
    try:
        yield
    finally:
        trimming.cancel()


async def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    while trim is not None:
        await asyncio.sleep(_TRIM_SECONDS)
        await asyncio.to_thread(trim, 0)
