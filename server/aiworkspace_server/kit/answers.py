"""Connections to PostgreSQL that are given up when a statement gets no answer.

TCP notices a peer that is gone. It does not notice a pooler, a balancer or a database that keeps the connection open
and is silent: without a limit, a statement would wait for ever, and with it whatever needs its connection.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, TypeVar

from psycopg import AsyncConnection, OperationalError
from psycopg.abc import PQGen
from psycopg.errors import IdleInTransactionSessionTimeout
from psycopg.pq import TransactionStatus

_INTERVAL_SECONDS = 0.1  # as in psycopg

Result = TypeVar("Result")
_patience: ContextVar[float] = ContextVar("patience", default=0)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Let statements in the context take so long, if that is longer than usual."""
    token = _patience.set(seconds)
    try:
        yield
    finally:
        _patience.reset(token)


class AnsweringConnection(AsyncConnection[Any]):
    """Raises OperationalError, and is closed, when a statement has no answer in time."""

    answer_seconds: ClassVar[float] = 30.0  # including the time that it waits for locks; see also `patience`

    async def wait(
        self,
        gen: PQGen[Result],
        interval: float = _INTERVAL_SECONDS,
        timeout: float | None = None,  # noqa: ASYNC109 - as in psycopg
    ) -> Result:
        most = max(self.answer_seconds, _patience.get())
        try:
            return await super().wait(gen, interval, most if timeout is None else timeout)
        except IdleInTransactionSessionTimeout as error:  # also when the clock of the database steps
            raise OperationalError(f"PostgreSQL has ended the transaction: {error}") from None
        except OperationalError:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:  # who listens waits for nothing else
                raise
            self.pgconn.finish()
            raise OperationalError(f"PostgreSQL did not answer within {most:g} s") from None
