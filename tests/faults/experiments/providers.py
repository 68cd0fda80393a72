"""Providers that refuse, break off, fall silent and miscount: at the beginning, after the first content, at the end."""

from collections.abc import Iterable
from functools import partial
from random import Random

from aiworkspace_server.llm.base import TokenUsage
from tests.standin import Cut, ErrorEvent, HttpError, Script, Stall
from tests.support.settings import anthropic_settings

from ..site import Site
from ..trial import ANTHROPIC, OPENAI, Trial, trial, words
from ..verdict import Figures, figures

_TOKENS = words(10)
_POINTS = (0, 1, len(_TOKENS))
_PACE = 0.01
_REFUSALS = (
    HttpError(429, headers=(("retry-after", "1"),)),
    HttpError(500, type="server_error"),
    HttpError(401, "Incorrect API key provided: {key}"),
)
_BREAKS = [make(after=point) for point in _POINTS for make in (ErrorEvent, Cut, partial(Cut, clean=True))]
_STALLS = [Stall(after=point, ping_seconds=pings) for point in _POINTS for pings in (None, 0.2)]
_HURRIED = {"provider_first_token_seconds": 2, "provider_idle_seconds": 1}
_ABSURD = (TokenUsage(10**12, 0, 0, 1, 0), TokenUsage(10, 11, 0, 4, 0), TokenUsage(10, 0, 0, 4, 5))

_UNMARKED = "SELECT run_id FROM ledger_entries WHERE org_id = %s AND kind = 'settle' AND NOT estimated"


async def refusals(site: Site, chance: Random) -> Figures:
    """Each for good, and each once before a good answer."""
    good = Script(tokens=_TOKENS, seconds_per_token=_PACE)
    refused = [Script(tokens=_TOKENS, fault=fault) for fault in _REFUSALS]
    async with trial(site, anthropic_settings(site.standin)) as at:
        await _ask(at, *((script, good) for script in refused), *((script,) for script in refused))
        return await figures(at, cut=False)


async def breaks(site: Site, chance: Random) -> Figures:
    return await _faulty(site, [Script(tokens=_TOKENS, seconds_per_token=_PACE, fault=fault) for fault in _BREAKS])


async def stalls(site: Site, chance: Random) -> Figures:
    return await _faulty(site, [Script(tokens=_TOKENS, seconds_per_token=_PACE, fault=fault) for fault in _STALLS])


async def counts(site: Site, chance: Random) -> Figures:
    """The ledger has an estimate then, which is marked, and the bill corrects it."""
    async with trial(site, anthropic_settings(site.standin)) as at:
        await _ask(at, *((Script(tokens=_TOKENS, usage=usage),) for usage in (None, *_ABSURD)))
        found = await figures(at)
        found.wrong += [f"{run_id}: an estimate is not marked" for (run_id,) in await site.rows(_UNMARKED, at.org_id)]
        return found


async def endless(site: Site, chance: Random) -> Figures:
    """More than can be stored: it has to end somewhere."""
    return await _faulty(site, [Script(tokens=("x" * 16384,) * 1000)])


async def _faulty(site: Site, scripts: Iterable[Script]) -> Figures:
    async with trial(site, anthropic_settings(site.standin) | _HURRIED) as at:
        await _ask(at, *((script,) for script in scripts))
        return await figures(at)


async def _ask(at: Trial, *courses: tuple[Script, ...]) -> None:
    """Everything at once, so that everything is asked before a circuit breaker has seen enough."""
    prepared = [await at.prepare(1, *course, model=model) for course in courses for model in (OPENAI, ANTHROPIC)]
    at.send(*(each for (each,) in prepared))


EXPERIMENTS = {
    "provider refuses: 429, 500, 401": refusals,
    "provider breaks off: error, reset, end": breaks,
    "provider falls silent, also with pings": stalls,
    "provider does not stop": endless,
    "provider counts nothing, or nonsense": counts,
}
