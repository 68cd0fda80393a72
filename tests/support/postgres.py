"""Straight into PostgreSQL as its owner, past row-level security: to turn back clocks and to see what no call shows."""

from asyncio import AbstractEventLoop, Task, create_task, get_running_loop, sleep, timeout, wait
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection
from psycopg.pq import ExecStatus

from tests.support.stores import Stores

Owner = AsyncConnection[tuple[Any, ...]]


@asynccontextmanager
async def as_owner(stores: Stores) -> AsyncIterator[Owner]:
    """A connection on which every statement commits at once, outside of `connection.transaction()`."""
    async with await AsyncConnection.connect(stores.libpq, autocommit=True) as connection:
        yield connection


# Connections that `sql` uses again, since a new one takes twenty times as long as a statement.
_idle: defaultdict[tuple[AbstractEventLoop, str], list[Owner]] = defaultdict(list)


async def sql(stores: Stores, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Runs one statement, with %s for the values. Returns its rows."""
    idle = _idle[get_running_loop(), stores.postgres]
    while True:
        kept = bool(idle)
        connection = idle.pop() if kept else await AsyncConnection.connect(stores.libpq, autocommit=True)
        try:
            cursor = await connection.execute(statement.encode(), values)
            # A query without columns has rows, too.
            rows = await cursor.fetchall() if cursor.pgresult and cursor.pgresult.status == ExecStatus.TUPLES_OK else []
        except BaseException:
            ended_before = kept and connection.broken  # by a test, or with its server
            await connection.close()
            if not ended_before:
                raise
        else:
            idle.append(connection)
            return rows


async def close_idle() -> None:
    for connections in _idle.values():
        while connections:
            await connections.pop().close()


async def until_blocked(stores: Stores, *tasks: Task[Any], of_ledger: bool = False) -> None:
    """Waits until as many transactions as there are tasks wait for rows or a table of another one, or a task is done.

    Only such waits of this database count: other databases have nothing to do with the tasks, and advisory locks only
    when they wait for the ledger.
    """
    waiting = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND wait_event = ANY (%s)"
    )
    events = ["advisory"] if of_ledger else ["transactionid", "tuple", "relation"]
    async with timeout(60):
        while not any(task.done() for task in tasks) and len(await sql(stores, waiting, events)) < len(tasks):
            await wait(tasks, timeout=0.01)


async def until_no_jobs(stores: Stores, about: str = "") -> None:
    """Waits until every job that was not put off is done; with the id of what jobs are about, all of those.

    Without an id, not for documents: those of other tests may be long.
    """
    waiting = "SELECT 1 FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
    others = " AND scheduled_at IS NULL AND queue_name <> 'reading' AND %s = ''"
    waiting += " AND strpos(args::text, %s) > 0" if about else others
    async with timeout(600):  # a test may have hundreds of documents read
        while await sql(stores, waiting, about):
            await wait([create_task(sleep(0.02))])
