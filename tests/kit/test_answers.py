"""PostgreSQL that keeps a connection open and says nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

import psycopg
import pytest
import sqlalchemy.exc
from sqlalchemy import text

from aiworkspace_server.kit import answers, postgres
from aiworkspace_server.kit.postgres import Database
from tests.support.postgres import sql
from tests.support.stores import Stores
from tests.support.tcp_gate import TcpGate, tcp_gate
from tests.support.waiting import until

_ONE = "SELECT 1"
_LOCK, _HELD = 4711, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711"


@pytest.fixture
async def gate(stores: Stores) -> AsyncIterator[TcpGate]:
    directory = Path(unquote(stores.postgres.partition("?host=")[2]))
    async with tcp_gate(directory / ".s.PGSQL.5432") as gate:
        yield gate


@pytest.fixture
async def db(stores: Stores, gate: TcpGate) -> AsyncIterator[Database]:
    place, _, _ = stores.postgres.partition("?host=")
    login, _, name = place.rpartition("@/")
    db = Database(f"{login}@127.0.0.1:{gate.port}/{name}")
    yield db
    gate.close_all()
    await db.close()


@contextmanager
def hurried() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "ANSWER_SECONDS", 0.3)
        yield


async def _settled(db: Database) -> None:
    async with db.read() as tx:
        await tx.execute(text(_ONE))
    await db.fetch(_ONE, ())


_ONE = "SELECT 1"


@pytest.mark.parametrize("way", ["there", "back"])
async def test_a_statement_without_an_answer_fails_and_the_next_has_another_connection(
    db: Database, gate: TcpGate, way: str
) -> None:
    await _settled(db)
    gate.fall_silent(there=way == "there", back=way == "back")
    with hurried(), pytest.raises(psycopg.OperationalError, match="did not answer"):
        await db.fetch(_ONE, ())
    with hurried(), pytest.raises(sqlalchemy.exc.OperationalError, match="did not answer"):
        async with db.read() as tx:
            await tx.execute(text(_ONE))
    gate.speak()  # connections on which something was lost stay silent
    await _settled(db)
    assert db.used == 0


async def test_who_listens_may_wait_longer_than_a_statement(stores: Stores) -> None:
    async with await answers.AnsweringConnection.connect(stores.libpq, autocommit=True) as connection:
        await connection.execute("LISTEN somewhere")
        with hurried():
            assert [each async for each in connection.notifies(timeout=1)] == []
        assert (await (await connection.execute("SELECT 1")).fetchone()) == (1,)


async def test_locks_of_a_process_that_cannot_be_reached_are_released(
    db: Database, gate: TcpGate, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = f"'{postgres._IDLE_SECONDS}s'"
    assert shown in postgres._BEGIN
    monkeypatch.setattr(postgres, "_BEGIN", postgres._BEGIN.replace(shown, "'100ms'"))
    begun = asyncio.Event()

    async def work() -> None:
        async with db.write() as tx:
            await tx.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            begun.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await begun.wait()
    assert await sql(stores, _HELD) == [(1,)]
    gate.fall_silent()

    async def released() -> bool:
        return await sql(stores, _HELD) == [(0,)]

    assert await until(released)
    gate.close_all()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
