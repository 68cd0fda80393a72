"""Which schemas a server works with, and how migrations come into tables that others use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from aiworkspace_server import migrate as migrations
from aiworkspace_server.compatibility import oldest_server
from aiworkspace_server.kit.mongo import Mongo
from aiworkspace_server.kit.postgres import Database
from aiworkspace_server.migrate import LockedError, alembic_config, migrate, migrate_postgres, mongo_migrations
from aiworkspace_server.row_batches import change_in_batches
from aiworkspace_server.schema import SchemaError, check_documents, check_schema
from tests.support.logged import logged_by
from tests.support.postgres import as_owner, sql
from tests.support.stores import Stores, empty_databases, migrated_databases
from tests.support.waiting import until_true
from tools.lint_migrations import BASELINE, lint, rendered

SCRIPTS = ScriptDirectory.from_config(alembic_config())
HEAD = str(SCRIPTS.get_current_head())

pytestmark = pytest.mark.usefixtures("app")  # which made the server's roles


# PostgreSQL: what a server accepts


@asynccontextmanager
async def at(stores: Stores, name: str, revision: str, comment: str) -> AsyncIterator[Database]:
    """A database at a revision that says of itself which servers it works with."""
    where = await migrated_databases(stores, name)
    await sql(where, f"UPDATE alembic_version SET version_num = '{revision}'")
    await sql(where, f"COMMENT ON TABLE alembic_version IS '{comment}'")
    db = Database(where.postgres)
    yield db
    await db.close()


async def test_a_newer_schema_that_works_with_this_server_is_accepted(stores: Stores) -> None:
    async with at(stores, "newer", "9999", f"works with servers from {HEAD}") as db:
        await check_schema(db, embedded=True)
        ((revision,),) = await db.fetch("SELECT version_num FROM alembic_version", ())
    assert revision == "9999"


async def test_a_newer_schema_that_works_with_older_servers_still_is_accepted(stores: Stores) -> None:
    async with at(stores, "much_newer", "9999", f"works with servers from {BASELINE}") as db:
        await check_schema(db, embedded=True)
        assert db.engine


@pytest.mark.parametrize(
    ("revision", "comment", "refusal"),
    [
        ("9999", "works with servers from 9998", "works with servers from 9998 on, not with .*: start a newer server"),
        ("9999", "", "does not say which servers it works with"),
        ("9999", "works with everything", "does not say which servers it works with"),
        (BASELINE, f"works with servers from {BASELINE}", "run the migrate command"),
    ],
)
async def test_other_schemas_are_refused(
    stores: Stores, request: pytest.FixtureRequest, revision: str, comment: str, refusal: str
) -> None:
    name = f"refused_{request.node.callspec.indices['revision']}_{request.node.callspec.indices['comment']}"
    async with at(stores, name, revision, comment) as db:
        with pytest.raises(SchemaError, match=refusal):
            await check_schema(db, embedded=True)


async def test_migrations_leave_in_the_database_which_servers_it_works_with(stores: Stores) -> None:
    where = await empty_databases(stores, "declares")
    said = "SELECT obj_description('alembic_version'::regclass)"
    await migrate_postgres(where.postgres, BASELINE)
    assert await sql(where, said) == [(f"works with servers from {BASELINE}",)]
    await migrate_postgres(where.postgres)
    assert await sql(where, said) == [(f"works with servers from {oldest_server(SCRIPTS, HEAD)}",)]


def _chain(directory: Path, *declared: tuple[str, str]) -> ScriptDirectory:
    """Migrations a, b, c … one after the other, with what they declare."""
    (directory / "versions").mkdir()
    before = None
    for revision, oldest in declared:
        line = f"compatible_with = {oldest!r}\n" if oldest else ""
        text = f"revision = {revision!r}\ndown_revision = {before!r}\n{line}"
        (directory / "versions" / f"{revision}.py").write_text(text)
        before = revision
    return ScriptDirectory(str(directory))


@pytest.mark.parametrize(
    ("revision", "oldest"), [("a", "a"), ("b", "a"), ("c", "b"), ("d", "b"), ("e", "e"), ("f", "e")]
)
def test_oldest_server_is_the_newest_that_a_migration_needs(tmp_path: Path, revision: str, oldest: str) -> None:
    declared = ("a", ""), ("b", "a"), ("c", "b"), ("d", "a"), ("e", ""), ("f", "a")
    assert oldest_server(_chain(tmp_path, *declared), revision) == oldest


# MongoDB


@asynccontextmanager
async def documents(stores: Stores, name: str, *records: dict[str, str], without: str = "") -> AsyncIterator[Mongo]:
    """A database with records of migrations besides this server's own."""
    where = await migrated_databases(stores, name)
    mongo = Mongo(where.mongo)
    for record in records:
        await mongo.database["migrations"].insert_one(dict(record))
    await mongo.database["migrations"].delete_one({"_id": without})
    yield mongo
    await mongo.close()


async def test_newer_documents_that_work_with_this_server_are_accepted(stores: Stores) -> None:
    last = mongo_migrations()[-1]
    async with documents(stores, "newer_documents", {"_id": "m9999_x", "compatible_with": last}) as mongo:
        await check_documents(mongo)
        assert await mongo.database["migrations"].count_documents({}) == len(mongo_migrations()) + 1


@pytest.mark.parametrize("more", [{"compatible_with": "m9998_x"}, {}], ids=["of newer servers", "undeclared"])
async def test_newer_documents_that_do_not_are_refused(stores: Stores, more: dict[str, str]) -> None:
    async with documents(stores, f"other_documents_{len(more)}", {"_id": "m9999_x", **more}) as mongo:
        with pytest.raises(SchemaError, match="m9999_x, with which this server cannot work"):
            await check_documents(mongo)


async def test_documents_that_lack_a_migration_are_refused(stores: Stores) -> None:
    last = mongo_migrations()[-1]
    async with documents(stores, "older_documents", without=last) as mongo:
        with pytest.raises(SchemaError, match=f"lacks the migration {last}: run the migrate command"):
            await check_documents(mongo)


async def test_migrations_of_documents_record_what_they_work_with(stores: Stores) -> None:
    where = await empty_databases(stores, "recorded_documents")
    mongo = Mongo(where.mongo)
    await migrate(where.postgres, mongo)
    records = await mongo.database["migrations"].find().sort("_id", 1).to_list()
    await mongo.close()
    oldest = {name: name for name in mongo_migrations()} | {"m0008_shard_keys": "m0007_citations"}
    assert [(each["_id"], each["compatible_with"]) for each in records] == list(oldest.items())


# Locks


async def test_a_migration_waits_for_a_locked_table_without_keeping_others_from_it(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = await empty_databases(stores, "locked")
    await migrate_postgres(where.postgres, BASELINE)
    logged = logged_by(migrations, monkeypatch)
    async with as_owner(where) as reader:
        await reader.execute("BEGIN")
        await reader.execute("SELECT FROM orgs")
        migrating = asyncio.create_task(migrate_postgres(where.postgres))
        await until_true(lambda: logged)
        async with asyncio.timeout(120):
            assert await sql(where, "SELECT count(*) FROM orgs") == [(0,)]
        await reader.execute("COMMIT")
        await migrating
    assert {entry["event"] for entry in logged} == {"migration_waits_for_locks"}
    assert await sql(where, "SELECT version_num FROM alembic_version") == [(HEAD,)]


async def test_a_table_that_stays_locked_ends_the_migration_with_what_to_do(stores: Stores) -> None:
    where = await empty_databases(stores, "locked_forever")
    await migrate_postgres(where.postgres, BASELINE)
    async with as_owner(where) as reader:
        await reader.execute("BEGIN")
        await reader.execute("SELECT FROM orgs")
        with pytest.raises(LockedError, match="run migrate again"):
            await migrate_postgres(where.postgres, tries=1)


# Batches


BATCH = """
  UPDATE things SET doubled = 2 * number WHERE id IN (
    SELECT id FROM things WHERE doubled IS NULL AND number < {below} ORDER BY id LIMIT 10 FOR UPDATE SKIP LOCKED)
"""


async def _double(where: Stores, below: int) -> None:
    def change(connection: Connection) -> None:
        context = MigrationContext.configure(connection, opts={"transaction_per_migration": True})
        with Operations.context(context), context.begin_transaction(_per_migration=True):
            change_in_batches("things", BATCH.format(below=below))

    engine = create_async_engine(where.postgres)
    async with engine.connect() as connection:
        await connection.run_sync(change)
    await engine.dispose()


async def test_rows_are_changed_in_batches_that_an_interrupted_migration_continues(stores: Stores) -> None:
    where = await empty_databases(stores, "batches")
    await sql(where, "CREATE TABLE things (id serial PRIMARY KEY, number int, doubled int CHECK (doubled < 100))")
    await sql(where, "ALTER TABLE things FORCE ROW LEVEL SECURITY, ENABLE ROW LEVEL SECURITY")
    await sql(where, "INSERT INTO things (number) SELECT generate_series(0, 94)")
    with pytest.raises(Exception, match="violates check constraint"):
        await _double(where, 95)
    assert await sql(where, "SELECT count(doubled), count(DISTINCT xmin::text) FROM things") == [(50, 6)]
    await sql(where, "ALTER TABLE things DROP CONSTRAINT things_doubled_check")
    await _double(where, 95)
    assert await sql(where, "SELECT count(*) FROM things WHERE doubled = 2 * number") == [(95,)]
    assert await sql(where, "SELECT relforcerowsecurity FROM pg_class WHERE relname = 'things'") == [(True,)]
    assert await sql(where, "SELECT count(DISTINCT xmin::text) FROM things") == [(10,)]


# What is checked before a migration is taken


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("CREATE INDEX one ON orgs (name)", "require-concurrent-index-creation"),
        ("ALTER TABLE orgs ADD COLUMN one integer NOT NULL", "adding-required-field"),
        ("ALTER TABLE orgs DROP COLUMN name", "ban-drop-column"),
        ("ALTER TABLE orgs RENAME COLUMN name TO title", "renaming-column"),
        ("ALTER TABLE orgs ADD CONSTRAINT one CHECK (name <> '')", "constraint-missing-not-valid"),
    ],
)
def test_statements_that_stop_servers_are_found(statement: str, rule: str) -> None:
    (problem,) = lint(Path("0099_bad.py"), f"BEGIN;\n{statement};\nCOMMIT;\n")
    assert rule in problem


def test_new_migrations_are_rendered_and_pass() -> None:
    new: list[Any] = [*SCRIPTS.walk_revisions(BASELINE, HEAD)][-2::-1]
    assert new
    for script in new:
        text = rendered(script.down_revision, script.revision)
        assert f"works with servers from {oldest_server(SCRIPTS, script.revision)}" in text
        assert lint(Path(script.path), text) == []
