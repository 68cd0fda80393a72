"""Connections to PostgreSQL: never more than POSTGRES_POOL, and a pooler that shares them between transactions."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from aiworkspace.v1 import document_pb2
from aiworkspace_server.app import App, running
from aiworkspace_server.kit.postgres import APP_ROLE, Database
from aiworkspace_server.schema import SchemaError, check_schema
from aiworkspace_server.settings import Settings
from tests.standin import Standin
from tests.support import documents
from tests.support.people import Person, make_org, make_place, people
from tests.support.pgbouncer import pgbouncer
from tests.support.postgres import sql
from tests.support.runs import kinds_of, say
from tests.support.server_process import ServerProcess
from tests.support.settings import provider_settings, store_settings
from tests.support.stores import Stores, migrated_databases, other_databases

_COUNT = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"


async def _most_connections(stores: Stores, database: str, load: asyncio.Task[None]) -> int:
    """How many connections there were to a database at once, until the load is over."""
    most = 0
    while not load.done():
        ((count,),) = await sql(stores, _COUNT, database)
        most = max(most, count)
        await asyncio.wait([load], timeout=0.002)
    await load
    return most


async def _work(person: Person) -> None:
    place = await make_place(person, "echo/echo")
    said = say(person, place.conversation_id, "hello")
    read = documents.read(person, place.workspace_id, b"The heron waits in the reeds. " * 50)
    others = asyncio.gather(*(make_org(person) for _ in range(10)))
    events, document, _ = await asyncio.gather(said, read, others)
    assert kinds_of(events)[-1] == "run_completed"
    assert document.state == document_pb2.DOCUMENT_STATE_READY


async def test_a_process_under_load_has_as_many_connections_as_its_pool(stores: Stores, standin: Standin) -> None:
    where = await other_databases(stores, "small_pool")
    values = provider_settings(standin) | store_settings(where) | {"postgres_pool": 15}
    async with running(Settings.model_validate(values), migrating=True) as app, people(app.address) as new_person:

        async def load() -> None:
            await asyncio.gather(*[_work(await new_person()) for _ in range(8)])

        most = await _most_connections(stores, "small_pool", asyncio.create_task(load()))
    assert 9 <= most <= 14  # all but those that build indexes, and not one more


async def test_workers_that_do_not_fit_are_warned_of_at_the_start(stores: Stores, tmp_path: Path) -> None:
    where = await other_databases(stores, "large_pools")
    values = store_settings(where) | {"redis_url": where.redis, "postgres_pool": 300}
    async with ServerProcess(tmp_path, values, "--migrate", "--workers", "2") as server:
        entries = [json.loads(line) for line in server.log.read_text().splitlines() if "connections_short" in line]
    assert [(each["processes"], each["needed"]) for each in entries] == [(2, 600)]
    assert re.match(r"set POSTGRES_POOL to at most 1\d\d, or ", entries[0]["advice"])


@asynccontextmanager
async def _login(stores: Stores, name: str, options: str = f"IN ROLE {APP_ROLE}") -> AsyncIterator[str]:
    await sql(stores, f"CREATE ROLE {name} LOGIN {options}")
    yield name
    await sql(stores, f"DROP OWNED BY {name}")
    await sql(stores, f"DROP ROLE {name}")


async def test_a_server_works_behind_pgbouncer(stores: Stores, standin: Standin, tmp_path: Path) -> None:
    where = await other_databases(stores, "pooled")
    async with _login(where, "pooled_login") as login, pgbouncer(where, tmp_path, login, 4) as url:
        values = provider_settings(standin) | store_settings(where)
        values |= {"database_url": url, "database_direct_url": where.postgres}
        async with running(Settings.model_validate(values), migrating=True) as app, people(app.address) as new_person:
            everybody = [await new_person() for _ in range(6)]
            await asyncio.gather(*map(_work, everybody))
            await _searches(app, everybody[0])
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
        ((shared,),) = await sql(where, query, login)
        assert shared == 4


async def _searches(app: App, person: Person) -> None:
    place = await make_place(person, "echo/echo")
    document = await documents.read(person, place.workspace_id, b"The kingfisher dives.")
    passage = await documents.find(person, document, "kingfisher")
    assert passage.text == "The kingfisher dives."
    assert app.db.pooled


@pytest.fixture
async def owned(stores: Stores) -> tuple[Stores, list[UUID]]:
    """Databases in which two organizations have a workspace each."""
    where, ids = await migrated_databases(stores, "pooled_rows"), []
    orgs = [
        await sql(
            where,
            "INSERT INTO orgs (id, name, create_time, update_time)"
            " VALUES (gen_random_uuid(), 'A', now(), now()) RETURNING id",
        )
        for _ in range(2)
    ]
    for ((org_id,),) in orgs:
        ids.append(org_id)
    return where, ids


async def test_row_level_security_holds_on_connections_that_are_shared(
    owned: tuple[Stores, list[UUID]], tmp_path: Path
) -> None:
    where, (ours, theirs) = owned
    seen, backends = text("SELECT array_agg(id), pg_backend_pid() FROM orgs"), set()
    async with _login(where, "pooled_rows") as login, pgbouncer(where, tmp_path, login, 1) as url:
        db = Database(url, where.postgres)
        await check_schema(db, embedded=False)
        for org_id, expected in ((ours, [ours]), (None, None), (theirs, [theirs]), (None, None)):
            async with db.read(org_id) as tx:
                found, backend = (await tx.execute(seen)).one()
                backends.add(backend)
            assert found == expected
            assert await db.fetch("SELECT id FROM orgs", ()) == []  # not even for a statement without a BEGIN
        await db.close()
    assert len(backends) == 1


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ("", "must be a member of aiworkspace_app"),
        (f"NOINHERIT IN ROLE {APP_ROLE}", "must be a member of aiworkspace_app"),
        (f"BYPASSRLS IN ROLE {APP_ROLE}", "bypasses row-level security"),
        ("SUPERUSER", "bypasses row-level security"),
    ],
)
async def test_a_login_that_sees_more_than_the_server_may_is_refused_behind_a_pooler(
    stores: Stores, tmp_path: Path, app: App, options: str, refusal: str
) -> None:
    async with _login(stores, "pooled_strong", options) as login, pgbouncer(stores, tmp_path, login, 1) as url:
        await sql(stores, f"GRANT SELECT ON alembic_version TO {login}")
        db = Database(url, stores.postgres)
        with pytest.raises(SchemaError, match=refusal):
            await check_schema(db, embedded=False)
        await db.close()


@pytest.mark.parametrize("options", [{}, {"ignore_startup_parameters": "options"}])
async def test_a_pooler_that_nobody_told_of_is_recognised(
    stores: Stores, tmp_path: Path, app: App, options: dict[str, str]
) -> None:
    async with _login(stores, "unannounced") as login, pgbouncer(stores, tmp_path, login, 1, **options) as url:
        db = Database(url)
        with pytest.raises(SchemaError, match="set DATABASE_DIRECT_URL"):
            await check_schema(db, embedded=False)
        await db.close()
