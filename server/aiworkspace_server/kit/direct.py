"""Connections to PostgreSQL for single statements, where a pool's bookkeeping would cost as much as the statement."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from psycopg import AsyncConnection, AsyncCursor, OperationalError
from psycopg.pq import TransactionStatus

from .deadlines import Deadlines

_Row = tuple[Any, ...]
Connect = Callable[[], Awaitable[AsyncConnection[_Row]]]


class _Lane:
    """A connection with a cursor for each statement: a cursor that is used again knows how to read its rows."""

    def __init__(self, connection: AsyncConnection[_Row]) -> None:
        self.connection = connection
        self._cursors: dict[str, AsyncCursor[_Row]] = {}

    async def fetch(self, statement: str, values: Sequence[Any]) -> list[_Row]:
        cursor = self._cursors.get(statement)
        if cursor is None:
            cursor = self._cursors[statement] = self.connection.cursor(binary=True)
        await cursor.execute(statement, values)
        return await cursor.fetchall()

    @property
    def works(self) -> bool:
        return self.connection.pgconn.transaction_status == TransactionStatus.IDLE


class Direct:
    """Runs statements on at most `most` connections, of which the last used is the next; further ones wait.

    Raises OperationalError if a statement has waited for `seconds`, and whatever `connect` raises. A connection that
    was lost is noticed by the statement that is sent on it, which fails; those beside it are not used again either.
    """

    def __init__(self, connect: Connect, most: int, seconds: float) -> None:
        self._connect = connect
        self.used = 0  # connections
        self._turns = asyncio.Semaphore(most)
        self._deadlines = Deadlines(seconds)
        self._idle: list[_Lane] = []
        self._closed = False

    async def fetch(self, statement: str, values: Sequence[Any]) -> list[_Row]:
        """Run a statement, which must be the same object each time, and return its rows."""
        if self._turns.locked():
            await self._wait()
        else:
            await self._turns.acquire()
        self.used += 1
        try:
            lane = self._idle.pop() if self._idle else await self._open()
            try:
                return await lane.fetch(statement, values)
            finally:
                if lane.works and not self._closed:
                    self._idle.append(lane)
                else:
                    await self._drop(lane)
        finally:
            self.used -= 1
            self._turns.release()

    async def close(self) -> None:
        """Close the idle connections now, and each other one when its statement has ended."""
        self._closed = True
        await self._drop()

    async def _open(self) -> _Lane:
        if self._closed:
            raise OperationalError("the connections are closed")
        return _Lane(await self._connect())

    async def _wait(self) -> None:
        try:
            with self._deadlines:
                await self._turns.acquire()
        except TimeoutError:
            message = f"no connection became free within {self._deadlines.seconds:g} s"
            raise OperationalError(message) from None

    async def _drop(self, *lanes: _Lane) -> None:
        idle, self._idle = self._idle, []
        for lane in (*lanes, *idle):
            await lane.connection.close()
