"""More calls at a time than there are connections to PostgreSQL: the server's own, or those that PostgreSQL takes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from psycopg import AsyncConnection, OperationalError

from aiworkspace_server.settings import LEAST_POOL

from ..links import links
from ..load import load
from ..site import Site
from ..trial import trial
from ..verdict import Figures, figures

_WRITERS, _ASKERS = 10, 6  # for two connections of transactions
_DELAY = (0.05, 0.3)
_SECONDS = 8.0
_RECOVERY_SECONDS = 45.0
_AT_ONCE = 25  # connections that others open
_AGAIN_SECONDS = 0.1
_END_OTHERS = """
  SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
  WHERE backend_type = 'client backend' AND application_name <> %s
"""
_NAME = "others"


async def own(site: Site, chance: Random) -> Figures:
    async with links(site, chance) as slow:
        gate = slow.gates["postgres"]
        async with (
            trial(site, dict(slow.settings) | {"postgres_pool": LEAST_POOL}) as at,
            load(at, _WRITERS, _ASKERS) as working,
        ):
            await working.begun()
            gate.delay = _DELAY
            await asyncio.sleep(_SECONDS)
            gate.delay = None
            at.fault()
            await working.settled()
        return await figures(at, died=True, most_seconds=_RECOVERY_SECONDS)


async def others(site: Site, chance: Random) -> Figures:
    """All connections are others': those of the server were ended, as by a restart."""
    async with trial(site) as at:
        async with load(at) as working:
            await working.begun()
            await asyncio.sleep(chance.random())
            async with _taken(site):
                await asyncio.sleep(_SECONDS)
            at.fault()
            await working.settled()
        if not at.calls.refused:
            at.wrong.append("nobody noticed that there were no connections")
        return await figures(at, died=True, most_seconds=_RECOVERY_SECONDS)


@asynccontextmanager
async def _taken(site: Site) -> AsyncIterator[None]:
    """PostgreSQL takes no more connections."""
    url, held = site.postgres.url.replace("+psycopg", ""), list[AsyncConnection]()

    async def take() -> None:
        while True:
            try:
                held.append(await AsyncConnection.connect(url, autocommit=True, application_name=_NAME))
            except OperationalError:
                return

    async def take_again() -> None:
        while True:
            await take()
            await asyncio.sleep(_AGAIN_SECONDS)

    await asyncio.gather(*(take() for _ in range(_AT_ONCE)))
    await held[0].execute(_END_OTHERS, [_NAME])
    taking = [asyncio.create_task(take_again()) for _ in range(_AT_ONCE)]
    try:
        yield
    finally:
        for task in taking:
            task.cancel()
        await asyncio.gather(*taking, return_exceptions=True)
        await asyncio.gather(*(each.close() for each in held))


EXPERIMENTS = {
    "more calls than connections, and a slow link": own,
    "PostgreSQL has no connections left": others,
}
