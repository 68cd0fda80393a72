"""Where experiments take place: databases that can be broken, a provider that bills, and servers under test."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection
from pymongo import AsyncMongoClient

from aiworkspace_server.kit.mongo import Mongo
from aiworkspace_server.migrate import migrate
from tests.standin import Standin
from tests.support.server_process import ServerProcess
from tests.support.settings import openai_settings, store_settings
from tests.support.store_processes import Store, stores
from tests.support.stores import Stores

_PATIENT = {"provider_first_token_seconds": 30, "provider_idle_seconds": 15, "run_seconds": 90, "log_level": "warning"}


@dataclass
class Site:
    """`directory` is where servers keep their logs."""

    directory: Path
    postgres: Store
    mongo: Store
    redis: Store
    standin: Standin
    end_seconds: float  # in which everything has to have ended after a fault
    numbers: Any  # of the servers

    def server(self, settings: Mapping[str, object] | None = None, *options: str) -> ServerProcess:
        """Not yet started. It asks OpenAI alone, and alone it has no Redis, unless the settings say otherwise."""
        where = Stores(self.postgres.url, self.mongo.url, self.redis.url)
        values = store_settings(where) | openai_settings(self.standin) | _PATIENT
        return ServerProcess(self.directory / f"server{next(self.numbers)}", values | dict(settings or {}), *options)

    @asynccontextmanager
    async def sql(self) -> AsyncIterator[AsyncConnection[tuple[Any, ...]]]:
        """A connection of the owner of all tables, past row-level security. Every statement commits at once."""
        url = self.postgres.url.replace("+psycopg", "")
        async with await AsyncConnection.connect(url, autocommit=True) as connection:
            yield connection

    async def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """The values are for %s; one mapping, for names."""
        named = values[0] if values and isinstance(values[0], dict) else values
        async with self.sql() as connection:
            return await (await connection.execute(statement.encode(), named)).fetchall()

    async def documents(self, collection: str, where: Mapping[str, Any]) -> list[dict[str, Any]]:
        client: AsyncMongoClient[dict[str, Any]]
        async with AsyncMongoClient(self.mongo.url, uuidRepresentation="standard") as client:
            return await client.get_default_database("aiworkspace")[collection].find(where).to_list()


@asynccontextmanager
async def site(directory: Path, end_seconds: float, *, revived: bool = False) -> AsyncIterator[Site]:
    """With all databases started, and at the present schema. `revived`: again when they end by themselves."""
    all_stores = postgres, mongo, redis = stores(directory / "data", revived=revived)
    try:
        await asyncio.gather(*(store.start() for store in all_stores))
        client = Mongo(mongo.url)
        await migrate(postgres.url, client)
        await client.close()
        async with Standin() as standin:
            yield Site(directory, postgres, mongo, redis, standin, end_seconds, count(1))
    finally:
        for store in all_stores:
            await store.close()
