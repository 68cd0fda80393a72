"""Documents that are being read when the server, a database, the text process or a parser dies.

A trigger holds each step open just before it records progress, after its work: so the signal meets it there.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from ..library import SETTINGS, Library
from ..moments import until, until_rows
from ..shelves import document_figures
from ..site import Site
from ..trial import trial
from ..verdict import Figures

_STEPS = ("checked", "parsed", "chunked", "embedded", "indexed")
_STORES = {"postgres": "PostgreSQL", "mongo": "MongoDB"}
_CHILDREN = {"text process": b"aiworkspace_server.embedding.worker", "parsers": b"aiworkspace_server.parsing.child"}
_KILLED = 4  # children: fewer than a step has attempts
_AWAY_SECONDS = 3.0
_HOLD, _RELEASE = "SELECT pg_advisory_lock(10)", "SELECT pg_advisory_unlock(10)"
_WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 10 AND NOT granted"
_FUNCTION = """
  CREATE FUNCTION wait_for_the_experiment() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN PERFORM pg_advisory_xact_lock(10); RETURN NEW; END'
"""
_TRIGGER = """
  CREATE TRIGGER wait_for_the_experiment BEFORE UPDATE ON document_steps FOR EACH ROW
  WHEN (NEW.step = '{step}' AND NEW.fraction > 0) EXECUTE FUNCTION wait_for_the_experiment()
"""


@asynccontextmanager
async def _held(site: Site, step: str) -> AsyncIterator[None]:
    """No document gets ahead with this step."""
    async with site.sql() as owner:
        for statement in (_HOLD, _FUNCTION, _TRIGGER.format(step=step)):
            await owner.execute(statement.encode())
        try:
            yield
        finally:
            await owner.execute(_RELEASE)  # first: whoever waits has the table that the trigger is on
            await owner.execute("DROP FUNCTION wait_for_the_experiment CASCADE")


async def kill_in_step(step: str, site: Site, chance: Random) -> Figures:
    async with trial(site, SETTINGS) as at:
        library = Library(at)
        await library.prepare()
        async with _held(site, step):
            await library.fill()
            await until_rows(site, 1, _WAITING)
            at.fault()
            await at.server.end(signal.SIGKILL)
        await at.server.start()
        await library.delete(chance, 4)
        return await document_figures(library)


async def kill_at_any_moment(site: Site, chance: Random) -> Figures:
    """Twice, while documents are deleted."""
    async with trial(site, SETTINGS) as at:
        library = Library(at)
        await library.prepare()
        for _ in range(2):
            await library.fill()
            await library.delete(chance, 3)
            await asyncio.sleep(chance.random() * 2)
            at.fault()
            await at.server.end(signal.SIGKILL)
            await at.server.start()
        return await document_figures(library)


async def take_over(site: Site, chance: Random) -> Figures:
    """Two servers: one dies, and the other reads on."""
    async with trial(site, SETTINGS, servers=2) as at:
        library = Library(at)
        await library.prepare()
        await library.fill()
        await asyncio.sleep(chance.random() * 2)
        at.fault()
        await chance.choice(at.servers).end(signal.SIGKILL)
        await library.delete(chance, 3)
        return await document_figures(library)


async def pause(name: str, site: Site, chance: Random) -> Figures:
    async with trial(site, SETTINGS) as at:
        library, store = Library(at), getattr(site, name)
        await library.prepare()
        await library.fill()
        at.fault()
        store.pause()
        try:
            await asyncio.sleep(_AWAY_SECONDS)
        finally:
            store.go_on()
        await library.delete(chance, 3)
        return await document_figures(library)


async def kill_store(name: str, site: Site, chance: Random) -> Figures:
    async with trial(site, SETTINGS) as at:
        library, store = Library(at), getattr(site, name)
        await library.prepare()
        await library.fill()
        await asyncio.sleep(chance.random())
        at.fault()
        store.kill()
        await store.restart()
        await library.delete(chance, 3)
        return await document_figures(library)


async def kill_children(name: str, site: Site, chance: Random) -> Figures:
    """Each one that shows up, until some are killed."""
    async with trial(site, SETTINGS) as at:
        library, killed = Library(at), set[int]()
        filling = asyncio.create_task(library.fill())

        def enough() -> bool:
            for process in set(_processes(at.server.pid, _CHILDREN[name])) - killed:
                os.kill(process, signal.SIGKILL)
                killed.add(process)
            return len(killed) >= _KILLED

        await until(enough)
        at.fault()
        await filling
        return await document_figures(library)


def _processes(parent: int, command: bytes) -> list[int]:
    """Children of a process, by a part of what they were started with."""
    found = []
    for tasks in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in tasks.read_text().split():
            line = Path(f"/proc/{child}/cmdline")
            if line.exists() and command in line.read_bytes():
                found.append(int(child))
    return found


EXPERIMENTS: dict[str, Any] = {
    **{f"documents: kill -9 while they are {step}": partial(kill_in_step, step) for step in _STEPS},
    "documents: kill -9 at any moment, twice": kill_at_any_moment,
    "documents: kill -9 of one of two": take_over,
    **{f"documents: {_STORES[name]} stopped for {_AWAY_SECONDS:g} s": partial(pause, name) for name in _STORES},
    **{f"documents: {_STORES[name]} killed and started again": partial(kill_store, name) for name in _STORES},
    **{f"documents: {name} killed": partial(kill_children, name) for name in _CHILDREN},
}
