"""Databases that keep a connection open and say nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
import pytest
import sqlalchemy.exc
from pymongo.errors import ConnectionFailure
from sqlalchemy import text

from aiworkspace_server.app import App
from aiworkspace_server.kit.answers import AnsweringConnection, patience
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.kit.mongo import Mongo
from aiworkspace_server.kit.otel import OtelTracing
from aiworkspace_server.kit.postgres import Database
from tests.support.postgres import sql
from tests.support.stores import Stores
from tests.support.tcp_gate import TcpGate, tcp_gate
from tests.support.waiting import until

_ONE = "SELECT 1"
_LOCK, _HELD = 4711, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711"


class _Hurried(AnsweringConnection):
    """Waits no longer than it would in a server, except while a test has it hurry."""


@contextmanager
def hurrying() -> Iterator[None]:
    _Hurried.answer_seconds = 0.3
    yield
    _Hurried.answer_seconds = AnsweringConnection.answer_seconds


@pytest.fixture
async def gate(app: App, stores: Stores) -> AsyncIterator[TcpGate]:
    directory = Path(unquote(stores.postgres.partition("?host=")[2]))
    async with tcp_gate(directory / ".s.PGSQL.5432") as gate:
        yield gate


@pytest.fixture
async def db(stores: Stores, gate: TcpGate) -> AsyncIterator[Database]:
    login, _, name = stores.postgres.partition("?host=")[0].partition("@/")
    db = Database(f"{login}@127.0.0.1:{gate.port}/{name}", connection_class=_Hurried, idle_seconds=1)
    yield db
    gate.close_all()
    await db.close()


async def _work(db: Database) -> None:
    async with db.read() as tx:
        await tx.execute(text(_ONE))
    await db.fetch(_ONE, ())


@pytest.mark.parametrize("way", ["there", "back"])
async def test_a_statement_without_an_answer_fails_and_the_next_has_another_connection(
    db: Database, gate: TcpGate, way: str
) -> None:
    await _work(db)
    gate.fall_silent(there=way == "there", back=way == "back")
    with hurrying(), pytest.raises(psycopg.OperationalError, match="did not answer"):
        await db.fetch(_ONE, ())
    with hurrying(), pytest.raises(sqlalchemy.exc.OperationalError, match="did not answer"):
        async with db.read() as tx:
            await tx.execute(text(_ONE))
    gate.speak()  # connections on which something was lost stay silent
    await _work(db)
    assert db.used == 0


async def test_who_listens_may_wait_longer_than_a_statement(app: App, stores: Stores) -> None:
    async with await _Hurried.connect(stores.libpq, autocommit=True) as connection:
        await connection.execute("LISTEN somewhere")
        with hurrying():
            assert [each async for each in connection.notifies(timeout=1)] == []
        assert await (await connection.execute(_ONE)).fetchone() == (1,)


async def test_connections_are_the_same_with_traces_and_afterwards(app: App, stores: Stores) -> None:
    """Else statements would wait for ever."""
    tracing = OtelTracing("http://127.0.0.1:9", {}, 0.0, "tests")
    async with await _Hurried.connect(stores.libpq) as traced:
        assert type(traced) is _Hurried
    await tracing.aclose()
    async with await _Hurried.connect(stores.libpq) as untraced:
        assert type(untraced) is _Hurried


async def test_a_job_waits_longer_for_an_answer(app: App, stores: Stores) -> None:
    async with await _Hurried.connect(stores.libpq, autocommit=True) as connection:
        with hurrying():
            with patience(60):
                assert await (await connection.execute("SELECT 1 FROM pg_sleep(1)")).fetchone() == (1,)
            with pytest.raises(psycopg.OperationalError, match=r"within 0\.3 s"):
                await connection.execute("SELECT 1 FROM pg_sleep(60)")


async def test_locks_of_a_process_that_cannot_be_reached_are_released(
    db: Database, gate: TcpGate, stores: Stores
) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with db.write() as tx:
            await tx.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            gate.fall_silent()
            begun.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await begun.wait()

    async def released() -> bool:
        return await sql(stores, _HELD) == [(0,)]

    assert await until(released)
    gate.close_all()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)  # whose connection is lost


async def test_a_transaction_that_the_database_has_ended_counts_as_an_outage(app: App, stores: Stores) -> None:
    db = Database(stores.postgres, idle_seconds=1)

    async def idle() -> None:
        async with db.write() as tx:
            pid = (await tx.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            await until(lambda: _is_gone(stores, pid))
            await tx.execute(text(_ONE))

    with pytest.raises(sqlalchemy.exc.OperationalError, match="has ended the transaction"):
        await idle()
    await db.close()


async def _is_gone(stores: Stores, pid: int) -> bool:
    return await sql(stores, "SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid) == []


async def test_a_command_of_mongodb_without_an_answer_fails_and_the_next_has_another_connection(stores: Stores) -> None:
    found = urlsplit(stores.mongo)
    async with tcp_gate(Path(unquote(found.netloc))) as gate:
        mongo = Mongo(f"mongodb://127.0.0.1:{gate.port}{found.path}?{found.query}", answer_seconds=1)
        documents = mongo.tenant("documents", new_id())

        async def answers() -> bool:
            with suppress(ConnectionFailure):
                return await documents.find_one({}) is None
            return False

        assert await until(answers)
        gate.fall_silent()
        with pytest.raises(ConnectionFailure):
            await documents.insert({"_id": new_id()})
        gate.speak()
        assert await until(answers)
        await mongo.close()
