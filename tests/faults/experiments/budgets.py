"""Many at once, and not enough money for all of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from tests.standin import Script

from ..moments import until
from ..site import Site
from ..trial import Trial, trial, words
from ..verdict import Figures, figures

_CROWD, _ENOUGH_FOR = 100, 10
_OVER = """
  SELECT w.settled_nanos, w.reserved_nanos, b.limit_nanos FROM budget_windows w JOIN budgets b ON b.id = w.budget_id
  WHERE w.org_id = %s AND b.hard AND w.settled_nanos + w.reserved_nanos > b.limit_nanos
"""
_SPENT = "SELECT sum(cost_nanos) FROM ledger_entries WHERE org_id = %s"
_RESERVED = "SELECT reserved_nanos FROM ledger_entries WHERE org_id = %s AND kind = 'reserve'"


async def a_crowd(site: Site, chance: Random) -> Figures:
    async with trial(site, {"rate_limit_factor": 1000}) as at:
        at.may_refuse = True
        reservation = await _reservation(at)
        await at.limit(await _spent(at) + _ENOUGH_FOR * reservation)
        go_on = asyncio.Event()
        script = Script(tokens=words(20), until=go_on)
        async with _watched(at):
            asked = await at.ask(_CROWD, script)
            await until(lambda: all(each.refusal or each.run_id for each in asked))
            go_on.set()
            await at.settle_down()
        found = await figures(at, cut=False)
        through = sum(not each.refusal for each in asked)
        if through != _ENOUGH_FOR:
            found.wrong.append(f"{through} came through, for {_ENOUGH_FOR} there was enough")
        return found


async def _reservation(at: Trial) -> int:
    """What one of these runs reserves."""
    await at.ask(1, Script(tokens=words(20)))
    await at.settle_down()
    return int((await at.site.rows(_RESERVED, at.org_id))[0][0])


async def _spent(at: Trial) -> int:
    return int((await at.site.rows(_SPENT, at.org_id))[0][0])


@asynccontextmanager
async def _watched(at: Trial) -> AsyncIterator[None]:
    """Notes whatever is seen beyond a budget meanwhile."""

    async def look() -> None:
        while True:
            at.wrong += [f"budget overdrawn: {row}" for row in await at.site.rows(_OVER, at.org_id)]
            await asyncio.sleep(0.02)

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()


EXPERIMENTS = {"a hundred runs at once, a budget for ten": a_crowd}
