"""Databases for tests: those of the session, and empty ones beside them."""

from dataclasses import dataclass

import psycopg
from sqlalchemy import make_url

from aiworkspace_server.kit.mongo import Mongo
from aiworkspace_server.migrate import migrate


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


async def other_databases(stores: Stores, name: str) -> Stores:
    """Empty databases in the same stores, for another server: one server works on a database at a time."""
    url = make_url(stores.postgres)
    async with await psycopg.AsyncConnection.connect(url.set(drivername="postgresql").render_as_string(False)) as owner:
        await owner.set_autocommit(True)
        await owner.execute(f"CREATE DATABASE {name}")
    place, _, query = stores.mongo.partition("?")
    postgres = url.set(database=name).render_as_string(hide_password=False)
    return Stores(postgres, f"{place.rpartition('/')[0]}/{name}?{query}", stores.redis)


async def migrated_databases(stores: Stores, name: str) -> Stores:
    """Databases with every table and no rows, for a test that needs no server."""
    own = await other_databases(stores, name)
    mongo = Mongo(own.mongo)
    await migrate(own.postgres, mongo)
    await mongo.close()
    return own
