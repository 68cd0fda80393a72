"""The databases: what an answer and a document leave on their disks, and take of their cores."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from psycopg import AsyncConnection
from pymongo import AsyncMongoClient

from tests.support.documents import upload, watch
from tests.support.people import Place, make_place, people

from .answers import CALLERS, CONVERSATIONS, TOKENS, Caller
from .crowd import Asker, crowd
from .machine import cpu_seconds_of
from .servers import Site
from .table import Row

_LINES = 100  # of a document, in each of which are other words
_AT_ONCE = 10
_NUMBERS = count(1)  # of documents, none of which is like another


@dataclass(frozen=True, slots=True)
class _Kept:
    """Bytes of tables and collections, with their indexes, and seconds of CPU so far."""

    postgres: int
    mongo: int
    postgres_seconds: float
    mongo_seconds: float


async def measure(site: Site, quick: bool) -> list[Row]:
    answers, documents = (800, 40) if quick else (8_000, 400)
    with site.provider() as provider, site.server(provider) as server:
        async with crowd(server, CALLERS, CONVERSATIONS) as askers, people(server.address) as new_person:
            place = await make_place(await new_person())
            return [
                await _row(site, f"an answer of {TOKENS} tokens", answers, lambda number: _ask(askers, number)),
                await _row(
                    site, f"a document of {len(_text(0)) >> 10} KB", documents, lambda number: _read(place, number)
                ),
            ]


async def _row(site: Site, what: str, number: int, work: Callable[[int], Awaitable[None]]) -> Row:
    await work(number // 4)  # first pages of tables and indexes, plans, caches
    before = await _kept(site)
    await work(number)
    after = await _kept(site)
    postgres, mongo = (after.postgres - before.postgres) / number, (after.mongo - before.mongo) / number
    cpu = [
        f"{name} {(end - begin) / number * 1e6:,.0f} µs"
        for name, begin, end in (
            ("PostgreSQL", before.postgres_seconds, after.postgres_seconds),
            ("MongoDB", before.mongo_seconds, after.mongo_seconds),
        )
    ]
    notes = [
        f"PostgreSQL {postgres / 1024:.1f}, MongoDB {mongo / 1024:.1f} KB, mean of {number:,}",
        f"CPU of the databases for one, with what they do by themselves: {', '.join(cpu)}",
    ]
    return Row(f"disk for {what}", (postgres + mongo) / 1024, None, notes, unit=" KB", digits=1)


async def _ask(askers: Sequence[Asker], number: int) -> None:
    callers = [Caller(asker, TOKENS, number // len(askers)) for asker in askers]
    await asyncio.gather(*(caller.idle.wait() for caller in callers))


async def _read(place: Place, number: int) -> None:
    for _ in range(0, number, _AT_ONCE):
        texts = [_text(next(_NUMBERS)) for _ in range(min(_AT_ONCE, number))]
        made = [await upload(place.owner, place.workspace_id, text.encode()) for text in texts]
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
