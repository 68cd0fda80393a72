"""Clocks that step an hour ahead and an hour back while everybody is at work."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path
from random import Random

from ..clocks import Clock
from ..conversation import conversing
from ..load import load
from ..site import Site, site
from ..trial import Trial, trial
from ..verdict import Figures, figures

_HOUR = 3600
_SECONDS = 7.0  # after each step: longer than a lease
_RECOVERY_SECONDS = 15.0
_TAKEN = ("lease_lost", "server_died", "run_taken_over")  # in the log of a server
_numbers = count(1)


async def of_one_server(site_: Site, chance: Random) -> Figures:
    """The other one, and the databases, have the time of the machine."""
    clock = Clock(_directory(site_))
    async with trial(site_, servers=2, environments=[clock.environment]) as at:
        return await _step(at, clock, chance)


async def of_servers_and_postgresql(site_: Site, chance: Random) -> Figures:
    """As when the clock of the one machine is set on which all of them are. MongoDB under libfaketime waits busily."""
    directory = _directory(site_)
    clock = Clock(directory)
    async with site(directory, site_.end_seconds) as own:
        with _given_to_children(clock):
            await own.postgres.restart()
        async with trial(own, servers=2, environments=[clock.environment] * 2) as at:
            return await _step(at, clock, chance)


async def _step(at: Trial, clock: Clock, chance: Random) -> Figures:
    at.clock_error = timedelta(seconds=2 * _HOUR)
    async with load(at) as working, conversing(at):
        await working.begun()
        for seconds in (_HOUR, 0, -_HOUR, 0):
            await asyncio.sleep(chance.random())
            clock.set(seconds)
            await asyncio.sleep(_SECONDS)
        at.fault()
        await working.settled()
    for server in at.servers:
        log = server.log.read_text()
        at.wrong += [f"the log has {event}" for event in _TAKEN if event in log]
    return await figures(at, died=True, most_seconds=_RECOVERY_SECONDS)


def _directory(site_: Site) -> Path:
    path = site_.directory / f"clock{next(_numbers)}"
    path.mkdir()
    path.chmod(0o755)
    return path


@contextmanager
def _given_to_children(clock: Clock) -> Iterator[None]:
    """Processes that this one starts have the clock; it has its own."""
    os.environ.update(clock.environment)
    try:
        yield
    finally:
        for name in clock.environment:
            del os.environ[name]


EXPERIMENTS = {
    "clock of one of two an hour ahead, an hour back": of_one_server,
    "clocks of servers and PostgreSQL an hour ahead, an hour back": of_servers_and_postgresql,
}
