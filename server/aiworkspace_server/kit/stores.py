"""What to do when a store does not answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import procrastinate.exceptions
import pymongo.errors
import sqlalchemy.exc
import structlog

# These mean that a store is away, rather than that the server is at fault.
STORE_AWAY: tuple[type[Exception], ...] = (
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.TimeoutError,
    procrastinate.exceptions.ConnectorException,
    pymongo.errors.ConnectionFailure,
    pymongo.errors.WaitQueueTimeoutError,
    pymongo.errors.WriteConcernError,  # the primary steps down or stops; how long a write may take is not limited
)
_MOST_BACKOFF_SECONDS = 5.0

Result = TypeVar("Result")
log = structlog.get_logger("stores")


async def insist(work: Callable[[], Awaitable[Result]]) -> Result:
    """Does work that must be done, again and again until the store answers. The work has to be safe to repeat."""
    backoff = 0.1
    while True:
        try:
            return await work()
        except STORE_AWAY as error:
            log.warning("store away, trying again", seconds=backoff, error=type(error).__name__)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _MOST_BACKOFF_SECONDS)
