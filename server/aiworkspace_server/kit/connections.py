"""How the connections that a process may take to PostgreSQL are divided over its parts, and whether there is room."""

from dataclasses import dataclass

import structlog
from psycopg import AsyncConnection
from sqlalchemy import make_url

from ..settings import LEAST_POOL

_LEASE = 1  # holds a lock of its session as long as the process lives
_LISTENERS = 5  # one for each queue of jobs
_QUEUE = 2  # fetch jobs and report how they ended
_INDEXES = 2  # under the owner's login: one for an index that is built, one for short work
PINGS = 1  # asks whether the database answers, however many others are in use
_SESSIONS = _LEASE + _LISTENERS + _INDEXES

_ROOM = """
SELECT current_setting('max_connections')::integer,
       current_setting('superuser_reserved_connections')::integer
         + coalesce(current_setting('reserved_connections', true), '0')::integer,
       (SELECT sum(numbackends) FROM pg_stat_database)::integer - 1
"""

log = structlog.get_logger("connections")


@dataclass(frozen=True, slots=True)
class Connections:
    """Upper bounds, which add up to POSTGRES_POOL with the connections that belong to sessions."""

    transactions: int  # of calls and jobs
    statements: int  # single ones, of the hot path
    queue: int = _QUEUE

    @classmethod
    def divide(cls, total: int) -> "Connections":
        """Divide `total`, at least LEAST_POOL. Statements are short and get a third of what the others leave."""
        left = total - _SESSIONS - _QUEUE - PINGS
        statements = max(2, left // 3)
        return cls(left - statements, statements)

    @property
    def direct(self) -> int:
        """Return how many need PostgreSQL itself where a pooler shares connections between transactions."""
        return _SESSIONS + self.queue

    @property
    def total(self) -> int:
        return self.direct + self.transactions + self.statements + PINGS


FEWEST = Connections.divide(LEAST_POOL)


def plain_url(url: str) -> str:
    """Return the URL for psycopg, without the name of the driver, which only SQLAlchemy knows."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


async def warn_if_short(url: str, connections: Connections, processes: int, *, pooled: bool) -> None:
    """Log a warning if PostgreSQL has less room than so many processes may take, and say what to set."""
    async with await AsyncConnection.connect(plain_url(url), connect_timeout=5) as connection:
        row = await (await connection.execute(_ROOM)).fetchone()
    assert row
    most, reserved, in_use = row
    needed = processes * (connections.direct if pooled else connections.total)
    free = most - reserved - in_use
    if needed > free:
        log.warning(
            "postgres_connections_short",
            processes=processes,
            needed=needed,
            free=free,
            max_connections=most,
            advice=_advice(processes, free, most + needed - free, pooled=pooled),
        )


def _advice(processes: int, free: int, max_connections: int, *, pooled: bool) -> str:
    fitting = free // processes
    if not pooled and fitting >= LEAST_POOL:
        return f"set POSTGRES_POOL to at most {fitting}, or PostgreSQL's max_connections to at least {max_connections}"
    return f"set PostgreSQL's max_connections to at least {max_connections}, or start fewer processes"
