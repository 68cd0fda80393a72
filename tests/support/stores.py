"""Databases for tests: those of the session, and others beside them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
from sqlalchemy import make_url

from aiworkspace_server.kit.mongo import Mongo
from aiworkspace_server.migrate import migrate

_TEMPLATE = "every_table"


@dataclass(frozen=True)
class Stores:
    """Where the databases of the tests are. The PostgreSQL URL is the owner's."""

    postgres: str
    mongo: str
    redis: str

    @property
    def libpq(self) -> str:
        """The PostgreSQL URL without the name of the driver, which only SQLAlchemy knows."""
        return self.postgres.replace("+psycopg", "")


@asynccontextmanager
async def connected(where: Stores) -> AsyncIterator[Mongo]:
    mongo = Mongo(where.mongo)
    yield mongo
    await mongo.close()


async def empty_databases(stores: Stores, name: str) -> Stores:
    """Databases in the same stores in which nothing is, not even a table."""
    await _create(stores, name, "template1")
    return _named(stores, name)


async def other_databases(stores: Stores, name: str) -> Stores:
    """Databases in the same stores for another server: one server works on a database at a time.

    PostgreSQL has every table and no rows, copied since that takes a tenth of the time of all migrations. MongoDB has
    nothing.
    """
    if not await _exists(stores, _TEMPLATE):
        await _migrate(await empty_databases(stores, _TEMPLATE))
    await _create(stores, name, _TEMPLATE)
    return _named(stores, name)


async def migrated_databases(stores: Stores, name: str) -> Stores:
    """Databases with every table and no rows, for a test that needs no server."""
    own = await other_databases(stores, name)
    await _migrate(own)
    return own


async def _exists(stores: Stores, name: str) -> bool:
    async with await psycopg.AsyncConnection.connect(stores.libpq) as owner:
        found = await owner.execute("SELECT FROM pg_database WHERE datname = %s", [name])
        return found.rowcount > 0


async def _create(stores: Stores, name: str, template: str) -> None:
    async with await psycopg.AsyncConnection.connect(stores.libpq, autocommit=True) as owner:
        await owner.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())


def _named(stores: Stores, name: str) -> Stores:
    place, _, query = stores.mongo.partition("?")
    postgres = make_url(stores.postgres).set(database=name).render_as_string(hide_password=False)
    return Stores(postgres, f"{place.rpartition('/')[0]}/{name}?{query}", stores.redis)


async def _migrate(databases: Stores) -> None:
    async with connected(databases) as mongo:
        await migrate(databases.postgres, mongo)
