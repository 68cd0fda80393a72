"""Migrates both databases to the current schema. Safe to run at any time, also concurrently."""

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine

from .kit.mongo import Mongo
from .kit.timestamps import now

log = structlog.get_logger("migrate")

_LOCK = 0x61697773  # advisory lock under which PostgreSQL is migrated
_LOCKED_SECONDS = 0.5
_TRY_LOCK = text("SELECT pg_try_advisory_lock(:lock)")


def migrations_dir() -> Path:
    """Return the directory of migrations: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parents[1] / "migrations"


async def migrate(owner_url: str, mongo: Mongo) -> None:
    """Migrate both databases. `owner_url` names a login that may create tables and roles."""
    await migrate_postgres(owner_url)
    await _migrate_mongo(mongo)


async def migrate_postgres(owner_url: str, revision: str = "head") -> None:
    """Run each migration up to a revision, in a transaction of its own. One process at a time does it.

    Who waits for the lock has no transaction open meanwhile. CREATE INDEX CONCURRENTLY waits for all of them.
    """
    engine = create_async_engine(owner_url, connect_args={"connect_timeout": 5}, poolclass=NullPool)
    async with engine.connect() as connection:  # which has the lock until it is closed
        while not await connection.scalar(_TRY_LOCK, {"lock": _LOCK}):
            await connection.rollback()
            await asyncio.sleep(_LOCKED_SECONDS)
        await connection.commit()
        await connection.run_sync(_upgrade, revision)


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
    for path in sorted((migrations_dir() / "mongo").glob("m[0-9]*.py")):
        if await done.find_one({"_id": path.stem}) is None:
            await _load(path).upgrade(mongo.database)
            await done.update_one({"_id": path.stem}, {"$setOnInsert": {"time": now()}}, upsert=True)


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
