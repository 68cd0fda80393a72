"""Runs that do not end with the first failure: another model answers or goes on, or another server does."""

import asyncio
import signal
from random import Random

from tests.standin import Cut, ErrorEvent, HttpError, Script
from tests.support.settings import anthropic_settings

from ..asking import Asked, until_deltas
from ..site import Site
from ..trial import ANTHROPIC, Trial, trial, words
from ..verdict import Figures, figures

_WORDS = words(20)
_ATTEMPTS = "SELECT run_id, count(DISTINCT attempt) FROM ledger_entries WHERE org_id = %s GROUP BY run_id"


async def fall_back(site: Site, chance: Random) -> Figures:
    """Before anything was said."""
    async with trial(site, anthropic_settings(site.standin)) as at:
        await at.allow(fallback_models=[ANTHROPIC])
        for fault in (HttpError(500), HttpError(401), HttpError(429, headers=(("retry-after", "60"),))):
            await at.ask_two(3, Script(tokens=_WORDS, fault=fault), Script(tokens=_WORDS), ANTHROPIC)
        return await _complete(at)


async def go_on(site: Site, chance: Random) -> Figures:
    """In the middle of an answer."""
    async with trial(site, anthropic_settings(site.standin)) as at:
        await at.allow(fallback_models=[ANTHROPIC], continue_broken_answers=True)
        for fault in (Cut, ErrorEvent):
            for _ in range(3):
                broken = Script(tokens=_WORDS, fault=fault(after=chance.randint(3, 19)))
                await at.ask_two(1, broken, Script(tokens=_WORDS, goes_on=True), ANTHROPIC)
        return await _complete(at)


async def hedge(site: Site, chance: Random) -> Figures:
    """Beside a model that keeps silent for long: the first that speaks answers, and what the other costs is known."""
    slow, silent = Script(tokens=_WORDS, seconds_before=1), Script(tokens=_WORDS, until=asyncio.Event())
    async with trial(site, anthropic_settings(site.standin)) as at:
        await at.allow(fallback_models=[ANTHROPIC], hedge_after_seconds=0.5)
        await at.ask_two(3, silent, Script(tokens=_WORDS), ANTHROPIC)
        await at.ask_two(3, slow, silent, ANTHROPIC)
        return await _complete(at)


async def resume(site: Site, chance: Random) -> Figures:
    """Of two servers the one that works on the runs dies, and the other goes on with them to their end."""
    async with trial(site, servers=2) as at:
        await at.allow(resume_interrupted_runs=True)
        asked = await at.ask(6, Script(tokens=_WORDS, seconds_per_token=0.1, goes_on=True))
        await until_deltas(asked, 4)
        await asyncio.sleep(chance.random())
        at.fault()
        await at.server.end(signal.SIGKILL)
        return await _complete(at, died=True)


async def _complete(at: Trial, *, died: bool = False) -> Figures:
    """All answers have to be whole, with more than one attempt each."""
    found = await figures(at, died=died)
    found.wrong += [f"{each.run_id} ended with {each.terminal}" for each in at.asked if not _is_whole(each)]
    attempts = dict(await at.site.rows(_ATTEMPTS, at.org_id))
    if min(attempts.values()) < 2:
        found.wrong.append(f"attempts: {attempts}")
    return found


def _is_whole(asked: Asked) -> bool:
    return asked.terminal == "run_completed" and asked.text == asked.whole


EXPERIMENTS = {
    "another model answers": fall_back,
    "another model goes on with an answer": go_on,
    "another model is asked beside": hedge,
    "kill -9 of one of two, the other goes on": resume,
}
