"""Migrates both databases to the current schema. Safe to run at any time, also concurrently, and while servers work.

A migration declares with `compatible_with` the oldest schema whose servers can still work. The databases keep that, so
that a server which does not have the migration reads it there.
"""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from alembic import command
from alembic.config import Config
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection, NullPool, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from .kit.mongo import Mongo
from .kit.timestamps import now

log = structlog.get_logger("migrate")

_LOCK = 0x61697773  # advisory lock under which the databases are migrated
_LOCKED_SECONDS = 0.5
_TRY_LOCK = text("SELECT pg_try_advisory_lock(:lock)")
# A statement that waits for a lock makes all others wait that come after it.
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '3s'"
_MOST_TRIES = 60
_FIRST_PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 0.2, 10.0


class LockedError(Exception):
    """A migration could not get its locks."""


def migrations_dir() -> Path:
    """Return the directory of migrations: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parents[1] / "migrations"


async def migrate(owner_url: str, mongo: Mongo) -> None:
    """Migrate both databases. `owner_url` names a login that may create tables and roles."""
    async with _alone(owner_url) as connection:
        await _migrate_postgres(connection, "head")
        await _migrate_mongo(mongo)


async def migrate_postgres(owner_url: str, revision: str = "head", tries: int = _MOST_TRIES) -> None:
    """Run each migration up to a revision, in a transaction of its own. Raises LockedError after so many tries."""
    async with _alone(owner_url) as connection:
        await _migrate_postgres(connection, revision, tries)


@asynccontextmanager
async def _alone(owner_url: str) -> AsyncIterator[AsyncConnection]:
    """Yield a connection with the lock that one process at a time has.

    Who waits for the lock has no transaction open meanwhile. CREATE INDEX CONCURRENTLY waits for all of them.
    """
    engine = create_async_engine(owner_url, connect_args={"connect_timeout": 5}, poolclass=NullPool)
    async with engine.connect() as connection:  # which has the lock until it is closed
        while not await connection.scalar(_TRY_LOCK, {"lock": _LOCK}):
            await connection.rollback()
            await asyncio.sleep(_LOCKED_SECONDS)
        await connection.commit()
        yield connection


async def _migrate_postgres(connection: AsyncConnection, revision: str, tries: int = _MOST_TRIES) -> None:
    """Try again when a table was locked for too long. Migrations that were done stay done."""
    assert connection.sync_connection
    event.listen(connection.sync_connection, "begin", _limit_locks)
    pause = _FIRST_PAUSE_SECONDS
    for number in range(1, tries + 1):
        try:
            return await connection.run_sync(_upgrade, revision)
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable | DeadlockDetected):
                raise
            await connection.rollback()
            log.warning("migration_waits_for_locks", tries=number, retry_in_seconds=pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _MOST_PAUSE_SECONDS)
    advice = "end the transactions that pg_stat_activity shows as old, and run migrate again: it goes on from here"
    raise LockedError(f"A migration did not get its locks in {tries} tries: {advice}.")


def _limit_locks(connection: Connection) -> None:
    """Limit the wait for locks in a transaction that begins.

    Outside of one, where indexes are built concurrently, this does nothing: they wait for others and hinder nobody.
    """
    connection.exec_driver_sql(_LOCK_TIMEOUT)


def alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()))
    return config


def _upgrade(connection: Connection, revision: str) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


async def _migrate_mongo(mongo: Mongo) -> None:
    """Run each numbered migration that is not recorded as done. Each one can be repeated."""
    done = mongo.database["migrations"]
    for name in mongo_migrations():
        if await done.find_one({"_id": name}) is None:
            module = _load(migrations_dir() / "mongo" / f"{name}.py")
            await module.upgrade(mongo.database)
            record = {"time": now(), "compatible_with": getattr(module, "compatible_with", name)}
            await done.update_one({"_id": name}, {"$setOnInsert": record}, upsert=True)


def mongo_migrations() -> list[str]:
    """Return the names of MongoDB's migrations in order."""
    return sorted(path.stem for path in (migrations_dir() / "mongo").glob("m[0-9]*.py"))


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
