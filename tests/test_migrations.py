"""Migrations of databases with rows, by an owner of the tables who is no superuser."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from alembic import command
from alembic.config import Config
from psycopg import AsyncConnection
from sqlalchemy import Connection, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.migrate import migrations_dir
from tests.support.postgres import as_owner, sql
from tests.support.stores import Stores, empty_databases

_OWNER = "owner_of_upgraded"
_ROLES = ("aiworkspace_app", "aiworkspace_lookup")


async def upgrade(url: str, revision: str) -> None:
    def run(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(migrations_dir()))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()


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
        await upgrade(url, "0003")
        run_id = await one_run(where)
        await upgrade(url, "head")
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
