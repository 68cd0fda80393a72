"""The lease of a process: while it holds, the runs whose claims name it are this process's to work on.

A row in the table `servers`, which the process renews long before it ends. Who finds one that was not renewed for as
long as a lease lasts, by its own clock, deletes it, and only then takes runs over; so a process that finds its row gone
knows that its runs may be somebody else's, and one that finds it, however late, that nobody has touched them. In
between it lets nobody see anything new.

The connection also holds a lock. A server without Redis holds it alone; those with Redis share it, since they can reach
each other's runs. Who gets it alone when it starts knows that no other server lives, and need not wait for any lease.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from ..kit.ids import new_id
from ..kit.postgres import Database
from ..kit.stores import STORE_UNAVAILABLE

LEASE_SECONDS = 5.0
_WAIT_SECONDS = 10  # for a server that is just stopping

_LOCK = 0x61697774
_ALONE = text(f"SELECT pg_try_advisory_lock({_LOCK})")
_TOGETHER = text(f"SELECT pg_try_advisory_lock_shared({_LOCK})")
_NO_LONGER_ALONE = text(f"SELECT pg_advisory_unlock({_LOCK})")
# So that PostgreSQL gives the lock free soon after the machine that held it has gone, or can be reached no longer: a
# lease is renewed much more often than a session may be idle.
_KEEPALIVE = text(
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3;"
    f" SET idle_session_timeout = '{2 * LEASE_SECONDS:g}s'"
)
_CLEAR = text("DELETE FROM servers")
_END = f"clock_timestamp() + interval '{LEASE_SECONDS} seconds'"
_BEGIN = text(
    "INSERT INTO servers (id, name, version, address, start_time, lease_end_time)"
    f" VALUES (:id, :name, :version, :address, clock_timestamp(), {_END})"
)
_RENEW = text(
    f"UPDATE servers SET lease_end_time = {_END}, address = :address, run_count = :run_count, draining = :draining"
    " WHERE id = :id RETURNING id"
)
_DELETE = text("DELETE FROM servers WHERE id = :id")
_REFUSAL = "Another server works on this database: stop it first, or set REDIS_URL for both."
_REFUSAL_WITH_REDIS = "A server without REDIS_URL works on this database: stop it first, or set REDIS_URL for it too."
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps, where there is one


class DatabaseInUseError(Exception):
    """Another server works on the database, and one of the two cannot reach the other's runs."""


class Lease:
    """`id` names this process in claims. It gets another one when its lease was taken away."""

    def __init__(self, db: Database, *, shared: bool, wait_seconds: float = _WAIT_SECONDS) -> None:
        self.id = new_id()
        self.address = ""  # on which this process takes calls, once it does
        self._db = db
        self._shared = shared
        self._wait_seconds = wait_seconds
        self._connection: AsyncConnection | None = None
        self._since = self._until = 0.0

    def holds(self) -> bool:
        return _now() < self._until

    async def check(self) -> None:
        """Raise LookupError if it does not hold."""
        if not self.holds():
            raise LookupError

    @property
    def steady(self) -> bool:
        """Whether it has held for as long as a lease lasts: all others that live have had the time to renew theirs."""
        return self.holds() and _now() - self._since > LEASE_SECONDS

    async def begin(self) -> bool:
        """Returns whether no other server is alive. Raises DatabaseInUseError when one is there and has to stop."""
        connection = await self._connect()
        alone = await self._wait_for_lock(connection)
        if alone:
            await connection.execute(_CLEAR)
        await self.replace()
        if alone and self._shared:
            await connection.execute(_TOGETHER)
            await connection.execute(_NO_LONGER_ALONE)
        return alone

    async def renew(self, run_count: int, *, draining: bool) -> bool:
        """Renew the lease, and tell operators what this process does.

        Return False when it had ended and was taken away. Raises when the database does not say.
        """
        asked, state = _now(), {"address": self.address, "run_count": run_count, "draining": draining}
        try:
            async with asyncio.timeout(LEASE_SECONDS):
                connection = self._connection or await self._connect_again()
                found = (await connection.execute(_RENEW, {"id": self.id, **state})).first()
        except BaseException:
            await self._disconnect()
            raise
        if found is None:
            self._until = 0.0
            return False
        self._extend(asked)
        return True

    async def replace(self) -> None:
        """A new lease, under a new id, of which nobody has heard yet."""
        assert self._connection
        self.id, asked = new_id(), _now()
        what = {"name": f"{socket.gethostname()}/{os.getpid()}", "version": version("aiworkspace")}
        await self._connection.execute(_BEGIN, {"id": self.id, "address": self.address, **what})
        self._extend(asked)

    async def end(self) -> None:
        """What is still in progress under it is for others from now on."""
        self._until = 0.0
        with suppress(*STORE_UNAVAILABLE):
            if self._connection:
                await self._connection.execute(_DELETE, {"id": self.id})
        await self._disconnect()

    def _extend(self, asked: float) -> None:
        if not self.holds():
            self._since = asked
        self._until = asked + LEASE_SECONDS

    async def _connect(self) -> AsyncConnection:
        self._connection = await self._db.sessions.connect()
        await self._connection.execute(_KEEPALIVE)
        return self._connection

    async def _connect_again(self) -> AsyncConnection:
        connection = await self._connect()
        if not await connection.scalar(_TOGETHER if self._shared else _ALONE):
            raise DatabaseInUseError("Another server has taken the database over.")
        return connection

    async def _disconnect(self) -> None:
        """Closes the connection, and with it gives the lock free."""
        connection, self._connection = self._connection, None
        if connection:
            with suppress(*STORE_UNAVAILABLE):
                await connection.invalidate()
                await connection.close()

    async def _wait_for_lock(self, connection: AsyncConnection) -> bool:
        """Whether it is this process's alone."""
        for _ in range(round(self._wait_seconds * 4)):
            if await connection.scalar(_ALONE):
                return True
            if self._shared and await connection.scalar(_TOGETHER):
                return False
            await asyncio.sleep(0.25)
        raise DatabaseInUseError(_REFUSAL_WITH_REDIS if self._shared else _REFUSAL)


class LeaseWatch:
    """Finds the leases that are not renewed, as long as this process watches them.

    By how often they change rather than by their times: the clock of the database may step.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or _now
        self._seen: dict[UUID, tuple[datetime, float]] = {}  # when a lease ends, and since when that is known

    def look(self, leases: Sequence[Row[Any]]) -> list[Row[Any]]:
        """Return those that have not changed for as long as a lease lasts. `leases`: all that there are."""
        now, before = self._clock(), self._seen
        self._seen = {}
        for lease in leases:
            known = before.get(lease.id)
            unchanged = known is not None and known[0] == lease.lease_end_time
            self._seen[lease.id] = known if known and unchanged else (lease.lease_end_time, now)
        return [lease for lease in leases if now - self._seen[lease.id][1] > LEASE_SECONDS]


def _now() -> float:
    return time.clock_gettime(_CLOCK)
