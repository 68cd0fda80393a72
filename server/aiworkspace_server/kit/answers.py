"""Connections to PostgreSQL that are given up when a statement gets no answer.

TCP notices a peer that is gone. It does not notice a pooler, a balancer or a database that keeps the connection open
and is silent: without a limit, a statement would wait for ever, and with it whatever needs its connection.
"""

from typing import Any, ClassVar, TypeVar

from psycopg import AsyncConnection, OperationalError
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

_INTERVAL_SECONDS = 0.1  # as in psycopg

Result = TypeVar("Result")


class AnsweringConnection(AsyncConnection[Any]):
    """Raises OperationalError, and is closed, when a statement has no answer in time."""

    answer_seconds: ClassVar[float] = 30.0  # including the time that it waits for locks

    async def wait(
        self,
        gen: PQGen[Result],
        interval: float = _INTERVAL_SECONDS,
        timeout: float | None = None,  # noqa: ASYNC109 - as in psycopg
    ) -> Result:
        try:
            return await super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except OperationalError:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:  # who listens waits for nothing else
                raise
            self.pgconn.finish()
            raise OperationalError(f"PostgreSQL did not answer within {self.answer_seconds:g} s") from None
