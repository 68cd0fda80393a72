"""The product beside LiteLLM's proxy, in the same rounds, on the same stand-in for a provider, pinned the same way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from .answers import Rounds, burst_round
from .crowd import Questioner, crowd
from .first_token import MANNER, ask, ask_provider, ask_together
from .litellm import LiteLLMAsker, litellm
from .paced import Load
from .servers import Server, Site
from .table import Row
from .tokens import Ramp

_CALLERS = 16
_CONVERSATIONS = 64  # of each: more than it has streams
_TOGETHER = "at once"  # beside the numbers of streams that ask at random moments


@dataclass(slots=True)
class Measured:
    """One of the two, and what was measured of it."""

    name: str
    server: Server
    askers: Sequence[Questioner]
    first_streams: int  # with which its ramp begins
    first: dict[int | str, list[float]] = field(default_factory=lambda: {1: [], 16: [], _TOGETHER: []})
    bursts: Rounds = field(default_factory=Rounds)
    whole: Rounds = field(default_factory=Rounds)  # answers that are not streamed, where there are any
    tokens: float = 0.0  # a second, on pace


async def measure(site: Site, quick: bool) -> list[Row]:
    rounds, seconds = (1, 2.0) if quick else (3, 4.0)
    with site.provider() as provider, site.server(provider) as server, litellm(site, provider) as proxy:
        async with crowd(server, _CALLERS, _CONVERSATIONS) as askers:
            ours = Measured("the product", server, askers, 64)
            theirs = Measured("LiteLLM", proxy, [LiteLLMAsker(proxy) for _ in range(_CALLERS)], 16)
            plain = [LiteLLMAsker(proxy, stream=False) for _ in range(_CALLERS)]
            for each in (ours, theirs):
                await ask(each.askers, 1.0, *MANNER[1])  # connections, plans, caches
            for _ in range(rounds):
                own = median(await ask_provider(provider, 1.0))
                for each in (ours, theirs):
                    await _first_tokens(each, own, seconds)
                    await burst_round(each.askers, each.server, site.cores, seconds, each.bursts)
                await burst_round(plain, proxy, site.cores, seconds, theirs.whole)
            for each in (ours, theirs):
                each.tokens = await _pace(each, site, quick)
    return _rows(ours, theirs)


async def _first_tokens(of: Measured, own: float, seconds: float) -> None:
    for streams in (1, 16):
        of.first[streams] += [value - own for value in await ask(of.askers[:streams], seconds, *MANNER[streams])]
    of.first[_TOGETHER] += [value - own for value in await ask_together(of.askers, 5)]


async def _pace(of: Measured, site: Site, quick: bool) -> float:
    load = Load(of.askers)
    ramp = Ramp(load, of.server, site.cores, 1.5 if quick else 3.0, of.first_streams)
    await ramp.climb(None)
    for _ in range(0 if ramp.good and quick else 2):
        await load.resize(0)
        await ramp.halve()
    await load.resize(0)
    if ramp.good is None:
        raise RuntimeError(f"not even {of.first_streams // 4} streams of {of.name} were on pace: is the machine busy?")
    return ramp.good.rate


def _rows(ours: Measured, theirs: Measured) -> list[Row]:
    return [
        _rate("answers/s of 200 tokens in a burst / LiteLLM's, streamed", ours.bursts, theirs.bursts, 40),
        _rate("the same / LiteLLM's, not streamed", ours.bursts, theirs.whole, 3),
        *(_first(ours, theirs, streams, share) for streams, share in ((1, 1 / 3), (16, 1 / 3), (_TOGETHER, 1 / 5))),
        Row(
            "paced tokens/s / LiteLLM's",
            ours.tokens / theirs.tokens,
            13,
            [f"{ours.tokens:,.0f} / {theirs.tokens:,.0f} tokens/s on pace, of streams of 50 a second."],
        ),
    ]


def _rate(what: str, ours: Rounds, theirs: Rounds, goal: float) -> Row:
    note = (
        f"{ours.rate:,.0f} / {theirs.rate:,.1f} answers/s; {ours.cost / 1000:.1f} / {theirs.cost / 1000:.1f} ms of CPU."
    )
    stored = "Ours are stored and settled in databases on the load's core, LiteLLM's are not."
    return Row(what, ours.rate / theirs.rate, goal, [note, stored])


def _first(ours: Measured, theirs: Measured, streams: int | str, share: float) -> Row:
    mine, other = median(ours.first[streams]), median(theirs.first[streams])
    name = f"16 streams {streams}" if streams == _TOGETHER else f"{streams} stream{'s' * (streams != 1)}"
    note = f"{mine * 1000:.1f} / {other * 1000:.1f} ms over the provider's own, medians."
    return Row(f"first token added, {name} / LiteLLM's", mine / other, round(share, 2), [note], least=False)
