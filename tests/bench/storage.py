"""The databases: what an answer and a document leave on their disks, and take of their cores."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection
from pymongo import AsyncMongoClient

from tests.support.documents import upload, watch
from tests.support.people import make_place, people

from .answers import CALLERS, CONVERSATIONS, TOKENS, Caller
from .crowd import crowd
from .machine import cpu_seconds_of
from .servers import Server, Site
from .table import Row

_LINES = 100  # of a document, in each of which are other words
_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class _Kept:
    """Bytes of tables and collections, with their indexes, and seconds of CPU so far."""

    postgres: int
    mongo: int
    postgres_seconds: float
    mongo_seconds: float


async def measure(site: Site, quick: bool) -> list[Row]:
    answers, documents = (500, 40) if quick else (5_000, 400)
    with site.provider() as provider, site.server(provider) as server:
        return [
            await _row(site, f"an answer of {TOKENS} tokens", answers, lambda: _answer(server, answers)),
            await _row(
                site, f"a document of {len(_text(0)) / 1024:.0f} KB", documents, lambda: _read(server, documents)
            ),
        ]


async def _row(site: Site, what: str, count: int, work: Callable[[], Awaitable[None]]) -> Row:
    before = await _kept(site)
    await work()
    after = await _kept(site)
    postgres, mongo = (after.postgres - before.postgres) / count, (after.mongo - before.mongo) / count
    cpu = [
        f"{name} {(end - begin) / count * 1e6:,.0f} µs"
        for name, begin, end in (
            ("PostgreSQL", before.postgres_seconds, after.postgres_seconds),
            ("MongoDB", before.mongo_seconds, after.mongo_seconds),
        )
    ]
    notes = [
        f"PostgreSQL {postgres / 1024:.1f}, MongoDB {mongo / 1024:.1f} KB, mean of {count:,}",
        f"CPU of the databases for one, with what they do by themselves: {', '.join(cpu)}",
    ]
    return Row(f"disk for {what}", (postgres + mongo) / 1024, None, notes, unit=" KB", digits=1)


async def _answer(server: Server, count: int) -> None:
    async with crowd(server, CALLERS, CONVERSATIONS) as askers:
        callers = [Caller(asker, TOKENS, count // CALLERS) for asker in askers]
        await asyncio.gather(*(caller.idle.wait() for caller in callers))


async def _read(server: Server, count: int) -> None:
    async with people(server.address) as new_person:
        place = await make_place(await new_person())
        for first in range(0, count, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, count))
            made = [await upload(place.owner, place.workspace_id, _text(number).encode()) for number in numbers]
            for document in made:
                await watch(place.owner, document.document_id)


def _text(number: int) -> str:
    return "\n".join(f"Line {line} of text {number} says what {line * number} is about." for line in range(_LINES))


async def _kept(site: Site) -> _Kept:
    url = site.stores["DATABASE_URL"].replace("+psycopg", "")
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("CHECKPOINT")
        found = await connection.execute("SELECT pg_database_size(current_database())")
        ((postgres,),) = await found.fetchall()
    async with AsyncMongoClient[dict[str, Any]](site.stores["MONGO_URI"]) as client:
        await client.admin.command("fsync")  # sizes of collections are those of the last checkpoint
        stats = await client.get_default_database("aiworkspace").command("dbStats")
    return _Kept(postgres, int(stats["totalSize"]), cpu_seconds_of("postgres"), cpu_seconds_of("mongod"))
