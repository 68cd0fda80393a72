"""PostgreSQL: transactions that know their tenant.

The server works as the role `aiworkspace_app`, which owns nothing and is subject to row-level security. Every
transaction begins by saying for which organization and person it works; without that, tenant tables show no rows.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Text, event, text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, SessionTransaction

APP_ROLE = "aiworkspace_app"


class Base(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {str: Text(), datetime: DateTime(timezone=True), int: BigInteger()}


class ReadSession(AsyncSession):
    """A read-only transaction. What only reads takes one of these."""


class WriteSession(ReadSession):
    """A transaction that may write. It commits when its `async with` ends without an exception."""


_BEGIN = text(
    "SELECT set_config('app.org_id', :org, true), set_config('app.user_id', :user, true),"
    " set_config('transaction_read_only', :read_only, true)"
)


class Database:
    """The pool, and the two kinds of transaction."""

    def __init__(self, url: str) -> None:
        self.engine: AsyncEngine = create_async_engine(
            url,
            connect_args={"options": f"-c role={APP_ROLE} -c timezone=UTC", "connect_timeout": 5},
            pool_size=10,
            max_overflow=10,
            pool_timeout=10,
            pool_use_lifo=True,
            hide_parameters=True,  # what people say must not reach a log with an error
        )

    @asynccontextmanager
    async def read(self, org_id: UUID | None = None, user_id: UUID | None = None) -> AsyncIterator[ReadSession]:
        async with ReadSession(self.engine, info=_scope(org_id, user_id, "on"), autoflush=False) as session:
            yield session

    @asynccontextmanager
    async def write(self, org_id: UUID | None = None, user_id: UUID | None = None) -> AsyncIterator[WriteSession]:
        async with (
            WriteSession(self.engine, info=_scope(org_id, user_id, "off"), expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    async def close(self) -> None:
        await self.engine.dispose()


def _scope(org_id: UUID | None, user_id: UUID | None, read_only: str) -> dict[str, str]:
    return {"org": str(org_id or ""), "user": str(user_id or ""), "read_only": read_only}


@event.listens_for(Session, "after_begin")
def _set_tenant(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    connection.execute(_BEGIN, session.info)
