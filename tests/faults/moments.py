"""How an experiment gets to the moment that it is about."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from .site import Site

_SECONDS = 60.0
_BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


async def until(holds: Callable[[], bool]) -> None:
    async def look() -> bool:
        return holds()

    await _until(look)


async def until_rows(site: Site, number: int, statement: str, *values: Any) -> None:
    """Waits until the statement counts so many."""

    async def look() -> bool:
        return bool((await site.rows(statement, *values))[0][0] >= number)

    await _until(look)


async def until_blocked(site: Site, number: int) -> None:
    """Waits until so many transactions wait for a lock."""
    await until_rows(site, number, _BLOCKED)


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not await holds():
        if time.monotonic() > deadline:
            raise TimeoutError("what the experiment waits for does not come")
        await asyncio.sleep(0.01)


@asynccontextmanager
async def locked(site: Site, table: str) -> AsyncIterator[None]:
    """Nobody else writes to the table."""
    async with site.sql() as connection, connection.transaction():
        await connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE".encode())
        yield
