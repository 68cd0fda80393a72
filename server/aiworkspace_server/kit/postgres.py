"""PostgreSQL: transactions that know their tenant.

The server works as the role `aiworkspace_app`, which owns nothing and is subject to row-level security. Every
transaction begins by saying for which organization and person it works, in the same round trip; without that, tenant
tables show no rows. Nothing else is kept in a session, so that a pooler may share connections between transactions.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Self
from uuid import UUID

from psycopg import AsyncConnection, AsyncCursor
from sqlalchemy import (
    ARRAY,
    BigInteger,
    CollectionAggregate,
    DateTime,
    NullPool,
    QueuePool,
    Text,
    Uuid,
    any_,
    cast,
    event,
    text,
)
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, SessionTransaction

from .answers import AnsweringConnection
from .connections import FEWEST, PINGS, Connections, plain_url
from .direct import Direct

APP_ROLE = "aiworkspace_app"
SESSION_OPTIONS = f"-c role={APP_ROLE} -c timezone=UTC"


class Base(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {str: Text(), datetime: DateTime(timezone=True), int: BigInteger()}


class _TenantSession(Session):
    """Begins the transactions of both kinds of session: see `_begin`."""


class ReadSession(AsyncSession):
    """A read-only transaction. Functions that only read take one."""

    sync_session_class = _TenantSession


class WriteSession(ReadSession):
    """A transaction that may write. It commits when its `async with` ends without an exception."""


# The time zone is set each time, since a role, a database or a pooler in between may have another one; the timeout,
# since sessions behind a pooler take no options.
_BEGIN = (
    "BEGIN {mode}; SELECT set_config('app.org_id', '{org}', true), set_config('app.user_id', '{user}', true),"
    " set_config('TimeZone', 'UTC', true),"
    " set_config('idle_in_transaction_session_timeout', '{idle}s', true)"
)

_PING = "SELECT 1"
_SET_TENANT = text("SELECT set_config('app.org_id', :org, true)")


# So that a connection which the network has forgotten is given up after ten seconds rather than two hours.
LOST_NETWORK = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}


class _Cursor(AsyncCursor[Any]):
    """Does not prepare `_BEGIN`, as psycopg does with statements that recur: PostgreSQL cannot prepare two in one."""

    async def execute(self, query: Any, params: Any = None, *, prepare: bool | None = None, **options: Any) -> Self:
        prepare = False if isinstance(query, str) and query.startswith("BEGIN ") else prepare
        return await super().execute(query, params, prepare=prepare, **options)


class Database:
    """The pools, the two kinds of transaction, and single statements that are a transaction each."""

    def __init__(
        self,
        url: str,
        session_url: str | None = None,
        connections: Connections = FEWEST,
        connection_class: type[AsyncConnection[Any]] = AnsweringConnection,
        idle_seconds: int = 30,
    ) -> None:
        """`session_url` leads to PostgreSQL itself, if `url` leads to a pooler that shares connections.

        `idle_seconds`: after which PostgreSQL releases the locks of a transaction whose process it cannot reach.
        """
        self._idle_seconds = idle_seconds
        self.pooled = session_url is not None
        connect = partial(_connect, connection_class, url, pooled=self.pooled)
        self._direct = Direct(connect, most=connections.statements, seconds=10)
        self._for_pings = Direct(connect, most=PINGS, seconds=1)
        self.engine = _engine(
            url,
            connection_class,
            pooled=self.pooled,
            pool_size=connections.transactions,
            max_overflow=0,
            pool_timeout=10,
            pool_use_lifo=True,
        )
        # For what belongs to a session rather than a transaction: each has a connection of its own.
        self.sessions = _engine(session_url or url, connection_class, pooled=False, poolclass=NullPool)
        # Called in order at the end of every write transaction, for what has to be committed with it or not at all.
        self.before_commit: Sequence[Callable[[WriteSession], Awaitable[None]]] = ()

    @asynccontextmanager
    async def read(self, org_id: UUID | None = None, user_id: UUID | None = None) -> AsyncIterator[ReadSession]:
        info = self._scope("READ ONLY", org_id, user_id)
        async with ReadSession(self.engine, info=info, autoflush=False) as session:
            yield session

    @asynccontextmanager
    async def write(self, org_id: UUID | None = None, user_id: UUID | None = None) -> AsyncIterator[WriteSession]:
        info = self._scope("READ WRITE", org_id, user_id)
        async with (
            WriteSession(self.engine, info=info, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session
            for work in self.before_commit:
                await work(session)

    async def fetch(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run one prepared statement that is its own transaction and sets its tenant itself: a function call.

        For the hot path: past the driver there is nothing but the statement. Raises the errors of psycopg.
        """
        return await self._direct.fetch(statement, values)

    async def ping(self) -> None:
        """Ask for nothing, on a connection of its own: a pool that is in use says nothing about the database."""
        await self._for_pings.fetch(_PING, ())

    @property
    def used(self) -> int:
        """How many connections are in use."""
        pool = self.engine.pool
        return self._direct.used + (pool.checkedout() if isinstance(pool, QueuePool) else 0)

    def _scope(self, mode: str, org_id: UUID | None, user_id: UUID | None) -> dict[str, str | int]:
        """Return the values for `_BEGIN`. They become part of its text, so UUIDs are written from their numbers."""
        org, user = (str(UUID(int=id.int)) if id else "" for id in (org_id, user_id))
        return {"mode": mode, "org": org, "user": user, "idle": self._idle_seconds}

    async def close(self) -> None:
        await self._direct.close()
        await self._for_pings.close()
        await self.engine.dispose()


def _engine(url: str, connection_class: type[AsyncConnection[Any]], *, pooled: bool, **pool: Any) -> AsyncEngine:
    return create_async_engine(
        url,
        connect_args={
            **_options(pooled=pooled),
            "cursor_factory": _Cursor,
            "async_creator_fn": connection_class.connect,
        },
        isolation_level="AUTOCOMMIT",  # the driver begins no transactions: `_begin` does
        hide_parameters=True,  # errors in the log must not quote what people wrote
        **pool,
    )


async def _connect(connection_class: type[AsyncConnection[Any]], url: str, *, pooled: bool) -> AsyncConnection[Any]:
    options: dict[str, Any] = {"prepare_threshold": 0} | _options(pooled=pooled)
    return await connection_class.connect(plain_url(url), autocommit=True, **options)


def _options(*, pooled: bool) -> dict[str, Any]:
    """Return how to connect. A pooler refuses options of a session, and each statement may reach another session.

    So nothing may depend on them there: the login itself has to be one that row-level security applies to.
    """
    session: dict[str, Any] = {"prepare_threshold": None} if pooled else {"options": SESSION_OPTIONS}
    return {**session, "connect_timeout": 5, **LOST_NETWORK}


async def set_tenant(tx: WriteSession, org_id: UUID) -> None:
    """Switch the transaction to another organization, to change a person in all of theirs at once."""
    await tx.flush()
    tx.info["org"] = str(UUID(int=org_id.int))
    await tx.execute(_SET_TENANT, {"org": tx.info["org"]})


def any_of(ids: Collection[UUID]) -> CollectionAggregate[Any]:
    """Return what to compare a column with: one parameter. `in_` needs one per id, and PostgreSQL takes 65,535."""
    return any_(cast(list(ids), ARRAY(Uuid)))


@event.listens_for(_TenantSession, "after_begin")
def _begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    connection.exec_driver_sql(_BEGIN.format(**session.info))
