"""Migrations of databases with rows, by an owner of the tables who is no superuser."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncConnection
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.migrate import migrate_postgres
from tests.support.postgres import Owner, as_owner, sql
from tests.support.stores import Stores, empty_databases
from tests.support.waiting import until

_OWNER = "owner_of_upgraded"
_INDEX_STATE = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ledger_entries_questions')"
_BUILDER = """
  SELECT pid FROM pg_stat_activity
  WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%%ledger_entries_questions%%'
"""
_ROLES = ("aiworkspace_app", "aiworkspace_lookup")


@asynccontextmanager
async def owned_by_a_plain_role(where: Stores) -> AsyncIterator[str]:
    """The URL with which that role works: as on a managed PostgreSQL, where nobody is a superuser."""
    url = make_url(where.postgres)
    async with as_owner(where) as admin:
        await admin.execute(f"CREATE ROLE {_OWNER} LOGIN CREATEROLE PASSWORD 'plain'".encode())
        for role in _ROLES:
            await admin.execute(f"GRANT {role} TO {_OWNER} WITH ADMIN OPTION".encode())
        await admin.execute(f"ALTER DATABASE {url.database} OWNER TO {_OWNER}".encode())
        await admin.execute("CREATE EXTENSION IF NOT EXISTS vector")  # which only a superuser may do
        try:
            yield url.set(username=_OWNER, password="plain").render_as_string(hide_password=False)
        finally:
            await admin.execute(f"ALTER DATABASE {url.database} OWNER TO CURRENT_USER".encode())
            await admin.execute(f"REASSIGN OWNED BY {_OWNER} TO CURRENT_USER".encode())
            await admin.execute(f"DROP OWNED BY {_OWNER}".encode())
            await admin.execute(f"DROP ROLE {_OWNER}".encode())


async def insert(connection: AsyncConnection[Any], table: str, **values: Any) -> None:
    names, places = ", ".join(values), ", ".join(["%s"] * len(values))
    await connection.execute(f"INSERT INTO {table} ({names}) VALUES ({places})".encode(), list(values.values()))


async def one_run(where: Stores) -> UUID:
    """A run that was paid for, in the tables of revision 0003."""
    run_id, org_id, user_id, workspace_id = (new_id() for _ in range(4))
    then: dict[str, Any] = dict.fromkeys(("create_time", "update_time"), "2026-01-02T03:04:05Z")
    created = {"create_time": then["create_time"]}
    whose = {"org_id": org_id, "run_id": run_id, "workspace_id": workspace_id, "user_id": user_id}
    whose["conversation_id"] = new_id()
    counts = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
    async with as_owner(where) as admin:
        await insert(admin, "users", id=user_id, email="a@example.com", display_name="A", password_hash="-", **then)
        await insert(admin, "orgs", id=org_id, name="A", **then)
        named = {"name": "A", "default_model": "echo/echo", "system_prompt": ""}
        await insert(admin, "workspaces", org_id=org_id, id=workspace_id, **named, **then)
        amount = {"model": "echo/echo", "amount_nanos": 10, "currency": "USD", "content_hash": b""}
        await insert(admin, "reservations", **whose, **amount, state="settled", **created)
        cost = {"model": "echo/echo", "estimated": False, "cost_nanos": 7, "currency": "USD", "price_version": "1"}
        await insert(admin, "ledger_entries", id=new_id(), **whose, **dict.fromkeys(counts, 1), **cost, **created)
    return run_id


@pytest.mark.usefixtures("app")  # which made the server's roles
async def test_a_ledger_with_entries_is_migrated_by_a_plain_owner(stores: Stores) -> None:
    where = await empty_databases(stores, "upgraded")
    async with owned_by_a_plain_role(where) as url:
        await migrate_postgres(url, "0003")
        run_id = await one_run(where)
        await migrate_postgres(url, "head")
        entries = "SELECT run_id, kind, attempt, cost_nanos, run_time = create_time FROM ledger_entries"
        assert await sql(where, entries) == [(run_id, "settle", 1, 7, True)]
        assert await sql(where, "SELECT run_id, state FROM run_claims") == [(run_id, "closed")]
        allowances = "SELECT id = org_id, scope, period, limit_nanos, hard FROM budgets"
        assert await sql(where, allowances) == [(True, "allowance", "month", None, True)]
        windows = "SELECT start_time = '2026-01-01Z', settled_nanos, reserved_nanos FROM budget_windows"
        assert await sql(where, windows) == [(True, 7, 0)]
        rollups = "SELECT period, start_time = '2026-01-02Z', request_count, cost_nanos FROM usage_rollups ORDER BY 1"
        assert await sql(where, rollups) == [("day", True, 1, 7), ("hour", False, 1, 7)]
        await sql(
            where, "INSERT INTO orgs (id, name, create_time, update_time) VALUES (%s, 'B', now(), now())", new_id()
        )
        assert len(await sql(where, allowances)) == 2  # also of one that a server of before makes meanwhile
        open_tables = "SELECT relname FROM pg_class WHERE relrowsecurity AND NOT relforcerowsecurity"
        assert await sql(where, open_tables) == []


_ALPHA = "SELECT first_chunk, last_chunk, cardinality(occurrences) FROM postings WHERE lexeme = 'alpha' ORDER BY 1"
_BETA = "SELECT o >> 24, (o >> 16) & 255, o & 65535 FROM postings, unnest(occurrences) o WHERE lexeme = 'beta'"


async def one_version(admin: Owner, key: dict[str, Any], chunks: int, answers: bool) -> None:
    """A version in the tables of revision 0022, whose chunks all have "alpha", and the 200th "beta"."""
    version_id, length = new_id(), 9
    for block in range(-(-chunks // 128)):
        alpha = [(n << 24) | (1 << 16) | length for n in range(min(128, chunks - 128 * block))]
        values = {"version_id": version_id, "block": block}
        await insert(admin, "postings", **key, **values, lexeme="alpha", occurrences=alpha)
        if chunks == 200 and block == 1:
            beta = [(71 << 24) | (3 << 16) | length]
            await insert(admin, "postings", **key, **values, lexeme="beta", occurrences=beta)
    if answers:
        kind = {"document_id": new_id(), "media_type": "text/plain", "language": "english", "embedded": False}
        counts = {"chunk_count": chunks, "lexeme_count": length * chunks, "create_time": "2026-01-02T03:04:05Z"}
        await insert(admin, "search_versions", **key, version_id=version_id, **kind, **counts)


async def many_versions(where: Stores) -> None:
    org_id, workspace_id = new_id(), new_id()
    then: dict[str, Any] = dict.fromkeys(("create_time", "update_time"), "2026-01-02T03:04:05Z")
    key = {"org_id": org_id, "workspace_id": workspace_id}
    async with as_owner(where) as admin:
        await insert(admin, "orgs", id=org_id, name="A", **then)
        named = {"name": "A", "default_model": "echo/echo", "system_prompt": ""}
        await insert(admin, "workspaces", org_id=org_id, id=workspace_id, **named, **then)
        await admin.execute("SET session_replication_role = replica")  # there are no documents
        await one_version(admin, key, 200, answers=True)
        for _ in range(98):
            await one_version(admin, key, 1, answers=True)
        await one_version(admin, key, 1, answers=False)


@pytest.mark.usefixtures("app")  # which made the server's roles
async def test_postings_are_packed_by_a_plain_owner(stores: Stores) -> None:
    where = await empty_databases(stores, "packed")
    async with owned_by_a_plain_role(where) as url:
        await migrate_postgres(url, "0022")
        await many_versions(where)
        await migrate_postgres(url)
        assert await sql(where, _ALPHA) == [(0, 127, 128), (128, 255, 128), (256, 297, 42)]
        assert await sql(where, _BETA) == [(199, 3, 9)]
        numbered = "SELECT first_chunk FROM search_versions ORDER BY create_time, first_chunk"
        assert [first for (first,) in await sql(where, numbered)] == [0, *range(200, 298)]


@asynccontextmanager
async def index_waits(where: Stores, migrations: int) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Migrations that run at once, one of which waits with the index of the ledger for the end of a transaction."""
    async with as_owner(where) as paying:
        await paying.execute("BEGIN")
        await paying.execute("LOCK TABLE ledger_entries IN ROW EXCLUSIVE MODE")
        tasks = [asyncio.create_task(migrate_postgres(where.postgres)) for _ in range(migrations)]
        await until(lambda: sql(where, _BUILDER))
        yield tasks
        await paying.execute("ROLLBACK")
        await asyncio.gather(*tasks)


@pytest.mark.usefixtures("app")
async def test_index_of_the_ledger_keeps_nobody_from_writing(stores: Stores) -> None:
    where = await empty_databases(stores, "written_meanwhile")
    await migrate_postgres(where.postgres, "0021")
    async with index_waits(where, 2), as_owner(where) as other, other.transaction():
        await other.execute("LOCK TABLE ledger_entries IN ROW EXCLUSIVE MODE NOWAIT")
    assert await sql(where, _INDEX_STATE) == [(True,)]


@pytest.mark.usefixtures("app")
async def test_index_that_was_interrupted_is_built_anew(stores: Stores) -> None:
    where = await empty_databases(stores, "half_indexed")
    await migrate_postgres(where.postgres, "0021")
    with pytest.raises(OperationalError):
        async with index_waits(where, 1):
            await sql(where, f"SELECT pg_cancel_backend(pid) FROM ({_BUILDER}) AS builder")
    assert await sql(where, _INDEX_STATE) == [(False,)]
    await migrate_postgres(where.postgres)
    assert await sql(where, _INDEX_STATE) == [(True,)]
