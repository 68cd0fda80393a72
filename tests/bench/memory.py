"""Memory of the server: at rest, and after many runs."""

import asyncio
from collections.abc import Sequence

from .answers import CALLERS, Caller
from .crowd import Asker, crowd
from .machine import resident_bytes
from .servers import Server, Site
from .table import Row

_FEW = 1_000
_TOKENS = 20
_CONVERSATIONS = 150  # of each, so that none of them grows long
_REST_SECONDS = 20  # in which the server returns what it has freed to the system
_MOST_MB, _MOST_GROWTH = 150, 1.1


async def measure(site: Site, quick: bool) -> list[Row]:
    many = 10_000 if quick else 100_000
    with site.provider() as provider, site.server(provider) as server:
        await asyncio.sleep(_REST_SECONDS)
        at_rest = resident_bytes(server.pid)
        async with crowd(server, CALLERS, _CONVERSATIONS) as askers:
            after_few = await _memory_after(server, askers, _FEW)
            after_many = await _memory_after(server, askers, many - _FEW)
    figures = f"{after_many / 1e6:.0f} / {after_few / 1e6:.0f} MB"
    return [
        Row("memory of a server at rest", at_rest / 1e6, _MOST_MB, unit=" MB", least=False),
        Row(f"memory after {many:,} runs / {_FEW:,}", after_many / after_few, _MOST_GROWTH, [figures], least=False),
    ]


async def _memory_after(server: Server, askers: Sequence[Asker], runs: int) -> int:
    callers = [Caller(asker, _TOKENS, runs // len(askers)) for asker in askers]
    await asyncio.gather(*(caller.idle.wait() for caller in callers))
    await asyncio.sleep(_REST_SECONDS)
    return resident_bytes(server.pid)
