from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from tests.standin import Standin
from tests.support.mailbox import Mailbox
from tests.support.people import Person
from tests.support.postgres import sql, until_no_jobs
from tests.support.server_process import ServerProcess
from tests.support.settings import mail_settings, provider_settings, store_settings
from tests.support.store_processes import Store, stores
from tests.support.stores import Stores
from tests.support.waiting import until

# Tables in which something about a deletion may stay, and no text that anybody wrote.
TOMBSTONES = {"org": "orgs", "workspace": "workspaces", "account": "users"}


@dataclass
class Site:
    """A server process with databases of its own, all of which can be searched."""

    server: ServerProcess
    postgres: Store
    mongo: Store
    redis: Store
    people: list[Person] = field(default_factory=list)

    @property
    def stores(self) -> Stores:
        return Stores(self.postgres.url, self.mongo.url, self.redis.url)

    @property
    def documents(self) -> Any:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(self.mongo.url, uuidRepresentation="standard")
        return client.get_default_database("aiworkspace")

    async def person(self) -> Person:
        person = Person(self.server.address)
        self.people.append(person)
        return await person.register()

    async def find(self, *texts: str) -> dict[str, list[str]]:
        """Where any of the texts is stored or logged, with what is there."""
        found: dict[str, list[str]] = {}
        for place, content in [*await self._rows(), *await self._documents(), *await self._keys(), *self._log()]:
            for text in texts:
                if text in content or text.encode().hex() in content:
                    found.setdefault(place, []).append(content)
        return found

    async def _rows(self) -> list[tuple[str, str]]:
        """Of every table, whatever its columns are; bytes as hexadecimal digits."""
        tables = await sql(self.stores, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        rows = []
        for (table,) in tables:
            found = await sql(self.stores, f"SELECT t::text FROM {table} t")
            rows += [(table, row) for (row,) in found]
        return rows

    async def _documents(self) -> list[tuple[str, str]]:
        database = self.documents
        return [
            (name, repr(document))
            for name in await database.list_collection_names()
            async for document in database[name].find({})
        ]

    async def _keys(self) -> list[tuple[str, str]]:
        async with Redis.from_url(self.redis.url) as redis:
            return [("redis", f"{key!r} {await _value(redis, key)!r}") async for key in redis.scan_iter()]

    def _log(self) -> list[tuple[str, str]]:
        return [("log", line) for line in self.server.log.read_text().splitlines()]

    async def first_pass(self, about: str) -> None:
        """Waits until the job that the deletion asked for is done."""
        await until_no_jobs(self.stores, about)

    async def last_pass(self, kind: str, row_id: str) -> None:
        """Makes a deletion old enough for its last pass, and waits for the note that it found nothing."""
        table = TOMBSTONES[kind]
        back = f"UPDATE {table} SET delete_time = delete_time - interval '2 minutes' WHERE id = %s"
        await sql(self.stores, back, row_id)
        query = f"SELECT 1 FROM {table} WHERE id = %s AND erase_time IS NOT NULL"
        await until(lambda: sql(self.stores, query, row_id))

    async def come_due(self, erasure_id: str) -> None:
        """Moves an erasure back in time, so that it begins or, if it has begun, may end."""
        back = "due_time = due_time - interval '8 days', begin_time = begin_time - interval '2 minutes'"
        await sql(self.stores, f"UPDATE erasures SET {back} WHERE id = %s", erasure_id)

    async def count(self, collection: str, **where: Any) -> int:
        return int(await self.documents[collection].count_documents({k: UUID(v) for k, v in where.items()}))


async def _value(redis: Any, key: bytes) -> Any:
    kind = (await redis.type(key)).decode()
    read = {
        "string": lambda: redis.get(key),
        "stream": lambda: redis.xrange(key),
        "hash": lambda: redis.hgetall(key),
        "list": lambda: redis.lrange(key, 0, -1),
        "set": lambda: redis.smembers(key),
        "zset": lambda: redis.zrange(key, 0, -1),
        "none": lambda: redis.get(key),  # it has expired since
    }
    return await read[kind]()


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory, standin: Standin, mailbox: Mailbox) -> AsyncIterator[Site]:
    data_dir: Path = tmp_path_factory.mktemp("erasure")
    postgres, mongo, redis = stores(data_dir)
    async with AsyncExitStack() as stack:
        for store in (postgres, mongo, redis):
            await store.start()
            stack.push_async_callback(store.close)
        where = {"database_url": postgres.url, "mongo_uri": mongo.url, "redis_url": redis.url, "log_level": "debug"}
        settings = store_settings(Stores(postgres.url, mongo.url, redis.url)) | where
        settings |= provider_settings(standin) | mail_settings(mailbox)
        server = ServerProcess(data_dir / "server", settings, "--migrate")
        site = Site(server, postgres, mongo, redis)
        async with server:
            yield site
            for person in site.people:
                await person.channel.close()
