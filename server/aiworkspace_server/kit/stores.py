"""Unavailable databases: the exceptions that mean it, and retries until they answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import procrastinate.exceptions
import psycopg
import pymongo.errors
import sqlalchemy.exc
import structlog


class StoreFull(Exception):
    """MongoDB lacks the room for a write. PostgreSQL's error of this kind is an OperationalError."""


# Raised when a database is unavailable, rather than when the server is at fault.
STORE_UNAVAILABLE: tuple[type[Exception], ...] = (
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.TimeoutError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.IdleInTransactionSessionTimeout,
    procrastinate.exceptions.ConnectorException,
    pymongo.errors.ConnectionFailure,
    pymongo.errors.WaitQueueTimeoutError,
    StoreFull,
    pymongo.errors.WriteConcernError,  # the primary steps down or stops; writes themselves have no time limit
)
_MAX_BACKOFF_SECONDS = 5.0

Result = TypeVar("Result")
log = structlog.get_logger("stores")


async def retry_until_available(work: Callable[[], Awaitable[Result]]) -> Result:
    """Run `work` until the database answers, with exponential back-off. `work` must be idempotent."""
    backoff = 0.1
    while True:
        try:
            return await work()
        except STORE_UNAVAILABLE as error:
            log.warning("database_unavailable", retry_in_seconds=backoff, error=type(error).__name__)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _MAX_BACKOFF_SECONDS)
