"""Databases that are stopped, killed and started again under a server at work."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any

from tests.standin import Script

from ..site import Site
from ..trial import Trial, trial, words
from ..verdict import Figures, figures

_PAUSE_SECONDS = 3.0
_GONE_SECONDS = 1.0
_SLOW = Script(tokens=words(40), seconds_per_token=0.03)
_NAMES = {"postgres": "PostgreSQL", "mongo": "MongoDB", "redis": "Redis between two servers"}


async def pause(name: str, site: Site, chance: Random) -> Figures:
    async with _busy(name, site) as at:
        store = getattr(site, name)
        prepared = await at.prepare(5, _SLOW)
        at.fault()
        store.pause()
        try:
            at.send(*prepared)  # some come while it is away
            await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            store.go_on()
        return await figures(at)


async def kill(name: str, site: Site, chance: Random) -> Figures:
    async with _busy(name, site) as at:
        store = getattr(site, name)
        prepared = await at.prepare(5, _SLOW)
        await asyncio.sleep(chance.random() * 0.2)
        at.fault()
        store.kill()
        at.send(*prepared)
        await asyncio.sleep(_GONE_SECONDS)
        await store.restart()
        return await figures(at, died=True)


@asynccontextmanager
async def _busy(name: str, site: Site) -> AsyncIterator[Trial]:
    """A server with runs at every step. What Redis is for takes two: with one of them everybody reads along."""
    async with trial(site, servers=2 if name == "redis" else 1) as at:
        await at.ask_one_by_one(20, _SLOW)
        if name == "redis":
            await at.follow_at(at.servers[1])
        yield at


async def kill_all(site: Site, chance: Random) -> Figures:
    """Everything at one moment, as when the machine goes: server, PostgreSQL, MongoDB, Redis."""
    async with trial(site, {"redis_url": site.redis.url}) as at:
        await at.ask_one_by_one(20, _SLOW)
        await asyncio.sleep(chance.random() * 0.2)
        at.fault()
        for store in (site.postgres, site.mongo, site.redis):
            store.kill()
        await at.server.end(signal.SIGKILL)
        await asyncio.gather(site.postgres.restart(), site.mongo.restart(), site.redis.restart())
        await at.server.start()
        return await figures(at, died=True)


EXPERIMENTS: dict[str, Any] = {
    **{f"{_NAMES[name]} stopped for {_PAUSE_SECONDS:g} s": partial(pause, name) for name in _NAMES},
    **{f"{_NAMES[name]} killed and started again": partial(kill, name) for name in _NAMES},
    "kill -9 of everything": kill_all,
}
