"""kill -9 of the server at each step of a run, or SIGSTOP for a while.

Steps are held open from outside: by a lock in PostgreSQL, by a MongoDB that is stopped, by a provider that pauses. So
the signal meets each run exactly there, however fast the machine is.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any

from tests.standin import Script, Stall

from ..asking import until_deltas
from ..moments import locked, until, until_blocked, until_rows
from ..site import Site
from ..trial import Trial, trial, words
from ..verdict import Figures, figures

_RUNS = 6
_FROZEN_SECONDS = 7.0  # a lease lasts five
_RESERVED = "SELECT count(*) FROM ledger_entries WHERE org_id = %s AND kind = 'reserve'"

Step = Callable[[Trial, Random], Any]  # an asynchronous context: inside, runs are at the step


@asynccontextmanager
async def before_the_reservation(at: Trial, chance: Random) -> AsyncIterator[None]:
    async with locked(at.site, "run_claims"):
        await at.ask(_RUNS, Script(tokens=words(20)))
        await until_blocked(at.site, _RUNS)
        yield


@asynccontextmanager
async def reserved_and_not_stored(at: Trial, chance: Random) -> AsyncIterator[None]:
    async with locked(at.site, "run_claims"):
        await at.ask(_RUNS, Script(tokens=words(20)))
        await until_blocked(at.site, _RUNS)
        at.site.mongo.pause()
    try:
        await until_rows(at.site, _RUNS, _RESERVED, at.org_id)
        yield
    finally:
        at.site.mongo.go_on()


@asynccontextmanager
async def before_the_first_content(at: Trial, chance: Random) -> AsyncIterator[None]:
    asked = len(at.site.standin.received)
    await at.ask(_RUNS, Script(tokens=words(20), until=asyncio.Event()))
    await until(lambda: len(at.site.standin.received) == asked + _RUNS)
    yield


@asynccontextmanager
async def in_the_middle(at: Trial, chance: Random) -> AsyncIterator[None]:
    for _ in range(_RUNS):
        said = chance.randint(1, 19)
        asked = await at.ask(1, Script(tokens=words(20), seconds_per_token=0.001, fault=Stall(after=said)))
        await until_deltas(asked, 1)
    await asyncio.sleep(0.2 + chance.random())  # some of it is stored by then, some of it not
    yield


@asynccontextmanager
async def after_the_last_token(at: Trial, chance: Random) -> AsyncIterator[None]:
    asked = await at.ask(_RUNS, Script(tokens=words(20), fault=Stall(after=20)))
    await until_deltas(asked, 1)
    await asyncio.sleep(0.2 + chance.random())
    yield


@asynccontextmanager
async def while_the_answer_is_stored(at: Trial, chance: Random) -> AsyncIterator[None]:
    go_on = asyncio.Event()
    asked = await at.ask(_RUNS, Script(tokens=words(20), until=go_on))
    await until(lambda: all(each.run_id for each in asked))
    at.site.mongo.pause()
    try:
        go_on.set()
        await at.site.standin.quiet()
        await asyncio.sleep(0.3)
        yield
    finally:
        at.site.mongo.go_on()


@asynccontextmanager
async def while_it_is_settled(at: Trial, chance: Random) -> AsyncIterator[None]:
    go_on = asyncio.Event()
    asked = await at.ask(_RUNS, Script(tokens=words(20), until=go_on))
    await until(lambda: all(each.run_id for each in asked))
    async with locked(at.site, "ledger_entries"):
        go_on.set()
        await until_blocked(at.site, _RUNS)
        yield


@asynccontextmanager
async def at_any_moment(at: Trial, chance: Random) -> AsyncIterator[None]:
    """Many runs that began one after the other, so that the kill meets them everywhere."""
    await at.ask_one_by_one(4 * _RUNS, Script(tokens=words(20), seconds_per_token=0.01))
    await asyncio.sleep(chance.random() * 0.2)
    yield


async def kill(step: Step, site: Site, chance: Random) -> Figures:
    """One server, which is started again."""
    async with trial(site) as at:
        async with step(at, chance):
            at.fault()
            await at.server.end(signal.SIGKILL)
        await at.server.start()
        return await figures(at, died=True)


async def take_over(step: Step, site: Site, chance: Random) -> Figures:
    """Two servers: the one that works on the runs dies, and the other ends them."""
    async with trial(site, servers=2) as at:
        async with step(at, chance):
            at.fault()
            await at.server.end(signal.SIGKILL)
        return await figures(at, died=True)


async def freeze(step: Step, site: Site, chance: Random) -> Figures:
    """Two servers: the one that works on the runs is stopped for longer than its lease, and goes on."""
    async with trial(site, servers=2) as at:
        async with step(at, chance):
            at.fault()
            at.server.send(signal.SIGSTOP)
            try:
                await asyncio.sleep(_FROZEN_SECONDS + chance.random())
            finally:
                at.server.send(signal.SIGCONT)
        return await figures(at)


async def kill_worker(site: Site, chance: Random) -> Figures:
    """One of two behind one address: the other ends its runs, and their parent starts another."""
    async with trial(site, {"redis_url": site.redis.url}, "--workers", "2") as at:
        await at.ask_one_by_one(4 * _RUNS, Script(tokens=words(20), seconds_per_token=0.05))
        at.fault()
        os.kill(chance.choice(at.server.workers), signal.SIGKILL)
        found = await figures(at, died=True)
        await until(lambda: len(at.server.workers) == 2)
        return found


_STEPS: tuple[Step, ...] = (
    before_the_reservation,
    reserved_and_not_stored,
    before_the_first_content,
    in_the_middle,
    after_the_last_token,
    while_the_answer_is_stored,
    while_it_is_settled,
    at_any_moment,
)


EXPERIMENTS: dict[str, Any] = {
    **{
        f"{title} {step.__name__.replace('_', ' ')}": partial(how, step)
        for title, how in (("kill -9", kill), ("kill -9 of one of two", take_over))
        for step in _STEPS
    },
    "kill -9 of one of two workers": kill_worker,
    **{
        f"one of two frozen for {_FROZEN_SECONDS:g} s {step.__name__.replace('_', ' ')}": partial(freeze, step)
        for step in (before_the_first_content, in_the_middle, after_the_last_token, at_any_moment)
    },
}
