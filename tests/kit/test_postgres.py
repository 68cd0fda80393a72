"""PostgreSQL: that no transaction sees or touches what is not its organization's, whatever a query forgets."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import make_url, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError

from aiworkspace_server.app import App
from aiworkspace_server.kit.postgres import APP_ROLE, Database, ReadSession
from aiworkspace_server.schema import check_schema
from aiworkspace_server.settings import Settings
from aiworkspace_server.tables import metadata
from tests.support.belongings import furnish
from tests.support.catalog import GLOBAL_PREFIX, tenant_tables
from tests.support.people import NewPerson
from tests.support.postgres import as_owner, sql
from tests.support.stores import Stores

# Versions have this row for a moment only.
_BEING_INDEXED = "INSERT INTO hidden_versions VALUES (%s, %s, %s, 1000000, 1, 0)"


@dataclass(frozen=True)
class Orgs:
    """Two organizations with rows in every table of tenants."""

    ours: UUID
    theirs: UUID
    tables: dict[str, str]  # with the column that says whose a row is


@pytest.fixture(scope="module")
async def orgs(new_person: NewPerson, stores: Stores) -> Orgs:
    estates = [await furnish(new_person) for _ in range(2)]
    ours, theirs = [UUID(estate.ids["org_id"]) for estate in estates]
    for estate in estates:
        org_id, workspace_id = (estate.ids[name] for name in ("org_id", "workspace_id"))
        await sql(stores, _BEING_INDEXED, org_id, uuid4(), workspace_id)
    async with as_owner(stores) as connection:
        tables = await tenant_tables(connection)
    for table, column in tables.items():
        assert await sql(stores, f"SELECT 1 FROM {table} WHERE {column} = %s", theirs), table
    return Orgs(ours, theirs, tables)


async def count(tx: ReadSession, table: str, column: str = "", org_id: UUID | None = None) -> int:
    where = f"WHERE {column} = :org_id" if column else ""
    found: int = (await tx.execute(text(f"SELECT count(*) FROM {table} {where}"), {"org_id": org_id})).scalar_one()
    return found


async def backend(tx: ReadSession) -> int:
    pid: int = (await tx.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    return pid


# What a transaction sees


async def test_without_a_tenant_there_are_no_rows(orgs: Orgs, settings: Settings) -> None:
    assert settings.database_url
    fresh = Database(settings.database_url.get_secret_value())
    async with fresh.read() as tx:
        assert {table: await count(tx, table) for table in orgs.tables} == dict.fromkeys(orgs.tables, 0)
        connection = await backend(tx)
    async with fresh.write(orgs.ours) as tx:
        assert not [table for table in orgs.tables if await count(tx, table) == 0]
        assert await backend(tx) == connection
    async with fresh.read() as tx:
        assert await backend(tx) == connection, "the test needs the connection that was a tenant's"
        assert {table: await count(tx, table) for table in orgs.tables} == dict.fromkeys(orgs.tables, 0)
    await fresh.close()


async def test_a_tenant_sees_its_own_rows_and_no_others(orgs: Orgs, app: App) -> None:
    async with app.db.read(orgs.ours) as tx:
        for table, column in orgs.tables.items():
            assert await count(tx, table) == await count(tx, table, column, orgs.ours) > 0
            assert await count(tx, table, column, orgs.theirs) == 0


async def test_a_tenant_ends_with_its_transaction_also_when_that_fails(orgs: Orgs, app: App) -> None:
    with pytest.raises(ProgrammingError):
        async with app.db.write(orgs.ours) as tx:
            await tx.execute(text("SELECT nothing"))
    async with app.db.read() as tx:
        assert await count(tx, "workspaces") == 0


async def test_people_see_their_own_replies_alone(orgs: Orgs, app: App, stores: Stores) -> None:
    user_id, request_id = await _person_with_a_reply(stores)
    for who, expected in ((user_id, 1), (uuid4(), 0), (None, 0)):
        async with app.db.read(user_id=who) as tx:
            same = text("SELECT count(*) FROM replies WHERE request_id = :id")
            assert (await tx.execute(same, {"id": request_id})).scalar_one() == expected


async def _person_with_a_reply(stores: Stores) -> tuple[UUID, UUID]:
    ((user_id,),) = await sql(stores, "SELECT id FROM users LIMIT 1")
    request_id = uuid4()
    await sql(stores, "INSERT INTO replies VALUES (%s, %s, '', NULL, now())", user_id, request_id)
    return user_id, request_id


# What a transaction changes


async def test_rows_of_others_cannot_be_changed(orgs: Orgs, app: App, stores: Stores) -> None:
    for table, column in orgs.tables.items():
        before = await _rows(stores, table, column, orgs.theirs)
        for statement in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"):
            if await _may(stores, statement.split()[0], table):
                async with app.db.write(orgs.ours) as tx:
                    result: Any = await tx.execute(text(f"{statement} WHERE {column} = :id"), {"id": orgs.theirs})
                    assert result.rowcount == 0
        assert await _rows(stores, table, column, orgs.theirs) == before


async def test_rows_cannot_be_put_into_another_organization(orgs: Orgs, app: App, stores: Stores) -> None:
    """A copy of one of their rows: the policy refuses it before any constraint could."""
    for table, column in orgs.tables.items():
        ((row,), *_) = await _rows(stores, table, column, orgs.theirs)
        names = ", ".join(name for (name,) in await sql(stores, _WRITABLE, table))
        copied = f"jsonb_populate_record(NULL::{table}, CAST(:row AS jsonb))"
        with pytest.raises(ProgrammingError, match="row-level security"):
            async with app.db.write(orgs.ours) as tx:
                await tx.execute(text(f"INSERT INTO {table} ({names}) SELECT {names} FROM {copied}"), {"row": row})
        if await _may(stores, "UPDATE", table):
            with pytest.raises(ProgrammingError, match="row-level security"):
                async with app.db.write(orgs.ours) as tx:
                    await tx.execute(text(f"UPDATE {table} SET {column} = :id"), {"id": orgs.theirs})


_WRITABLE = """
  SELECT attname FROM pg_attribute
  WHERE attrelid = %s::regclass AND attnum > 0 AND attgenerated = '' AND NOT attisdropped
"""


async def _rows(stores: Stores, table: str, column: str, org_id: UUID) -> list[tuple[Any, ...]]:
    where = f"WHERE {column} = %s"
    return await sql(stores, f"SELECT to_jsonb({table})::text FROM {table} {where} ORDER BY 1", org_id)


async def _may(stores: Stores, privilege: str, table: str) -> bool:
    ((may,),) = await sql(stores, "SELECT has_table_privilege(%s, %s, %s)", APP_ROLE, table, privilege)
    return bool(may)


@pytest.mark.parametrize(
    "statement", ["INSERT INTO workspaces SELECT * FROM workspaces", "UPDATE workspaces SET name = ''"]
)
async def test_a_read_session_cannot_write(statement: str, orgs: Orgs, app: App) -> None:
    with pytest.raises(DBAPIError, match="read-only transaction"):
        async with app.db.read(orgs.ours) as tx:
            await tx.execute(text(statement))


async def test_a_read_session_cannot_be_made_a_writer(orgs: Orgs, app: App) -> None:
    with pytest.raises(DBAPIError, match="must be set before any query"):
        async with app.db.read(orgs.ours) as tx:
            await tx.execute(text("SET transaction_read_only = off"))


@pytest.fixture(scope="module")
async def as_in_production(app: App, stores: Stores) -> AsyncIterator[Database]:
    """Through a login that is a member of the server's role and of nothing else."""
    await sql(stores, f"CREATE ROLE production LOGIN IN ROLE {APP_ROLE}")
    db = Database(make_url(stores.postgres).set(username="production").render_as_string(hide_password=False))
    await check_schema(db, embedded=True)
    yield db
    await db.close()
    await sql(stores, "DROP ROLE production")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_entries SET cost_nanos = 0",
        "DELETE FROM ledger_entries",
        "TRUNCATE ledger_entries",
        "TRUNCATE workspaces CASCADE",
        "DELETE FROM orgs",
        "DELETE FROM users",
        "DROP TABLE ledger_entries",
        "ALTER TABLE workspaces DISABLE ROW LEVEL SECURITY",
        "DROP POLICY tenant ON workspaces",
        "CREATE TABLE mine (id int)",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SET ROLE aiworkspace_lookup",
    ],
)
async def test_what_the_server_has_no_business_with_is_refused(
    statement: str, orgs: Orgs, as_in_production: Database
) -> None:
    with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"):
        async with as_in_production.write(orgs.ours) as tx:
            await tx.execute(text(statement))


async def test_a_reservation_is_written_and_ended_once(orgs: Orgs, app: App, stores: Stores) -> None:
    ((row,), *_) = await _rows(stores, "ledger_entries", "org_id", orgs.ours)
    with pytest.raises(IntegrityError, match=r"ledger_entries_(begin|end)"):
        async with app.db.write(orgs.ours) as tx:
            await tx.execute(
                text(
                    "INSERT INTO ledger_entries SELECT * FROM jsonb_populate_record(NULL::ledger_entries,"
                    " CAST(:row AS jsonb) || jsonb_build_object('id', gen_random_uuid()))"
                ),
                {"row": row},
            )


# The schema


async def test_the_server_works_as_its_role(app: App) -> None:
    async with app.db.read() as tx:
        assert (await tx.execute(text("SELECT current_user::text"))).scalar_one() == APP_ROLE


async def test_the_models_describe_the_migrated_schema(app: App) -> None:
    """Tables, columns and their types; constraints and indexes are the migration's alone, jobs their library's."""
    options = {"compare_type": True, "include_name": lambda name, *_: not str(name).startswith(GLOBAL_PREFIX)}
    async with app.db.engine.connect() as connection:
        found = await connection.run_sync(
            lambda plain: compare_metadata(MigrationContext.configure(plain, opts=options), metadata)
        )
    described = ("add_table", "remove_table", "add_column", "remove_column", "modify_type", "modify_nullable")
    changes = [change for entry in found for change in (entry if isinstance(entry, list) else [entry])]
    assert [change for change in changes if change[0] in described] == []


# Errors


async def test_an_error_does_not_say_what_was_sent(app: App) -> None:
    with pytest.raises(DataError) as caught:
        async with app.db.read() as tx:
            await tx.execute(text("SELECT :said"), {"said": "canary\0"})
    assert "canary" not in str(caught.value)
