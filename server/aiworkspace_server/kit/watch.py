"""Long calls that end when what allowed them is gone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from .errors import AppError
from .stores import STORE_AWAY

log = structlog.get_logger("watch")


@asynccontextmanager
async def watched(check: Callable[[], Awaitable[None]], seconds: float) -> AsyncIterator[None]:
    """Ends what runs inside as soon as `check`, done again and again, raises an AppError, and raises that.

    A store that is away ends nothing: what was allowed stays so until the store can say otherwise.
    """
    task = asyncio.current_task()
    assert task
    refusal: AppError | None = None

    async def watch() -> None:
        nonlocal refusal
        while refusal is None:
            await asyncio.sleep(seconds)
            try:
                await check()
            except AppError as error:
                refusal = error
                task.cancel()
            except STORE_AWAY:
                log.warning("store away, checking again", seconds=seconds)

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        # As asyncio.timeout does: only a cancellation that came from here alone becomes the refusal.
        if refusal and task.uncancel() == 0:
            raise refusal from None
        raise
    finally:
        watcher.cancel()
