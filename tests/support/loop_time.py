"""How long the event loop is held by one callback, in CPU time of its thread: the same on a machine that others use."""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class LoopTime:
    longest: float = 0.0  # seconds of one callback or one step of a task
    what: str = ""

    def note(self, seconds: float, handle: asyncio.Handle) -> None:
        if seconds > self.longest:
            self.longest, self.what = seconds, repr(handle)[:300]


@contextmanager
def watching_loop() -> Iterator[LoopTime]:
    """Measures every callback of the loop of this thread, until the context ends.

    What the tests have in memory is out of the reach of the garbage collector meanwhile: a server does not have it.
    """
    found = LoopTime()
    gc.freeze()
    run = asyncio.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        begin = time.thread_time()
        run(handle)
        found.note(time.thread_time() - begin, handle)

    asyncio.Handle._run = measured  # type: ignore[method-assign, assignment]
    try:
        yield found
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]
        gc.unfreeze()
