"""stream-zip in a thread of its own, fed by the event loop.

Its own asynchronous version takes threads of the loop's executor, in which others look up addresses: exports that wait
for a database could leave none for that.
"""

import asyncio
import threading
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from stream_zip import AsyncMemberFile, stream_zip

_LEVEL = 6
Item = TypeVar("Item")


class Stopped(Exception):
    """Nobody takes the file any more. Raised in the thread."""


async def zip_members(members: AsyncIterable[AsyncMemberFile]) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a ZIP file, whose members are asked for one after the other."""
    loop, stopping = asyncio.get_running_loop(), threading.Event()

    def fetch(items: AsyncIterable[Item]) -> Iterator[Item]:
        """Yield in the thread what the loop produces."""
        iterator = aiter(items)

        async def following() -> Item | None:
            return await anext(iterator, None)

        while not stopping.is_set():
            item = asyncio.run_coroutine_threadsafe(following(), loop).result()
            if item is None:
                return
            yield item
        raise Stopped

    files = ((name, time, mode, method, fetch(parts)) for name, time, mode, method, parts in fetch(members))
    parts = iter(stream_zip(files, get_compressobj=_compressor))
    pool = ThreadPoolExecutor(1, thread_name_prefix="export")
    try:
        while (part := await loop.run_in_executor(pool, next, parts, None)) is not None:
            yield part
    finally:
        stopping.set()
        pool.shutdown(wait=False)


def _compressor() -> Any:
    return zlib.compressobj(level=_LEVEL, wbits=-zlib.MAX_WBITS)
