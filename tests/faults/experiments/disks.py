"""Documents that are read while the disk of a database is full, and uploads that come meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count
from random import Random
from typing import Any

import psycopg
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from tests.support.waiting import until

from ..disks import Disk, disk
from ..library import SETTINGS, Library
from ..shelves import document_figures
from ..site import Site, site
from ..trial import trial
from ..verdict import Figures

Need = Callable[[Site], Awaitable[None]]

_MEGABYTES = {"postgres": 512, "mongo": 512}  # MongoDB starts with 300 of them in its journal
_FULL_SECONDS = 60.0  # longer than the attempts of a step would last if each failed at once
_AGAIN_SECONDS = 0.1
_MOST_UNFINISHED, _MOST_HELD = 8, 40
_numbers = count(1)


async def _begin_log_file(own: Site) -> None:
    await own.rows("SELECT pg_switch_wal()")


async def _checkpoint(own: Site) -> None:
    client: AsyncMongoClient[dict[str, Any]]
    async with AsyncMongoClient(own.mongo.url, serverSelectionTimeoutMS=100) as client:
        await client.admin.command("fsync")


async def fill(name: str, need_room: Need | None, site_: Site, chance: Random) -> Figures:
    """`need_room` makes the database write now what it otherwise writes within minutes, and dies of if it cannot."""
    directory = site_.directory / f"full{next(_numbers)}"
    with disk(directory / "data" / name, _MEGABYTES[name]) as full:
        async with site(directory, site_.end_seconds, revived=True) as own, trial(own, SETTINGS) as at:
            library = Library(at)
            await library.prepare()
            await library.fill()
            try:
                await asyncio.sleep(chance.random())
                await _upload_meanwhile(library, full, need_room)
            finally:
                full.give_room()
            at.fault()  # from here on nothing is broken but what does not recover
            await until(partial(_answers, name, own))
            await library.complete()
            return await document_figures(library)


async def _answers(name: str, own: Site) -> bool:
    """A database that has ended is started again, by what does that in a server."""
    try:
        await (own.rows("SELECT 1") if name == "postgres" else own.documents("runs", {"_id": ""}))
    except (psycopg.OperationalError, PyMongoError):
        return False
    return True


async def _upload_meanwhile(library: Library, full: Disk, need_room: Need | None) -> None:
    """Upload one document after the other. A caller whom the disk fails has to be told to repeat."""
    end = time.monotonic() + _FULL_SECONDS
    while time.monotonic() < end:
        full.fill()
        if need_room:
            with suppress(psycopg.OperationalError, PyMongoError):
                await need_room(library.at.site)
        if len(library.unfinished) < _MOST_UNFINISHED and len(library.held) < _MOST_HELD:
            library.begin()
        for each in list(library.unfinished):
            await library.go_on(each)
        await asyncio.sleep(_AGAIN_SECONDS)
    if not library.refusals:
        library.at.wrong.append("nobody noticed that the disk was full")


EXPERIMENTS: dict[str, Any] = {
    "documents: PostgreSQL's disk full": partial(fill, "postgres", None),
    "documents: PostgreSQL's disk full, WAL included": partial(fill, "postgres", _begin_log_file),
    "documents: MongoDB's disk full": partial(fill, "mongo", _checkpoint),
}
