"""Where the databases are: outside, or embedded."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from .kit.connections import Connections, warn_if_short
from .kit.embedded import (
    InUseError,
    embedded_mongo,
    embedded_postgres,
    embedded_redis,
    mongo_uri,
    postgres_url,
    running_sockets,
)
from .kit.mongo import Mongo
from .migrate import migrate
from .settings import Settings

log = structlog.get_logger("serve")


@dataclass(frozen=True, slots=True)
class Databases:
    """Addresses of the databases. `owner_url` names a login that may change the schema.

    `session_url` is set if `url` leads to a pooler that shares connections between transactions.
    """

    url: str
    owner_url: str
    mongo_uri: str
    redis_url: str | None
    session_url: str | None = None

    @property
    def direct_url(self) -> str:
        """Return the URL of PostgreSQL itself."""
        return self.session_url or self.url


@asynccontextmanager
async def databases(settings: Settings, *, several: bool = False) -> AsyncIterator[Databases]:
    """Yield those of the settings, or embedded ones that stop with the context; Redis only for several processes."""
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    if settings.database_url and settings.mongo_uri:
        url, direct = settings.database_url.get_secret_value(), settings.database_direct_url
        owner = settings.migration_database_url or direct or settings.database_url
        session_url = direct.get_secret_value() if direct else None
        mongo_uri = settings.mongo_uri.get_secret_value()
        yield Databases(url, owner.get_secret_value(), mongo_uri, redis_url, session_url)
        return
    async with AsyncExitStack() as stack:
        log.info("databases_starting", data_dir=str(settings.data_dir))
        if several and redis_url is None:  # first, since it is the one that may be missing
            redis_url = await stack.enter_async_context(embedded_redis(settings.data_dir, revived=True))
        url, embedded_uri = await asyncio.gather(
            stack.enter_async_context(embedded_postgres(settings.data_dir, revived=True)),
            stack.enter_async_context(embedded_mongo(settings.data_dir, revived=True)),
        )
        yield Databases(url, url, embedded_uri, redis_url)


@asynccontextmanager
async def readable_databases(settings: Settings) -> AsyncIterator[Databases]:
    """Yield the databases for a command that only reads: embedded ones also while a server runs them."""
    async with AsyncExitStack() as stack:
        try:
            where = await stack.enter_async_context(databases(settings))
        except InUseError:
            url = postgres_url(running_sockets(settings.data_dir, "postgres"))
            where = Databases(url, url, mongo_uri(running_sockets(settings.data_dir, "mongo")), None)
        yield where


async def prepare(settings: Settings, where: Databases, *, migrating: bool, processes: int = 1) -> None:
    """Migrate the databases if `migrating`. Embedded ones are always migrated.

    Log a warning if PostgreSQL has no room for the connections of so many processes.
    """
    if migrating or settings.embedded:
        mongo = Mongo(where.mongo_uri)
        await migrate(where.owner_url, mongo)
        await mongo.close()
    most = Connections.divide(settings.postgres_pool)
    await warn_if_short(where.direct_url, most, processes, pooled=where.session_url is not None)
