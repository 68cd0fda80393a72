"""Two workers beside one and beside two servers that share nothing: what it costs to follow each other's runs."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from statistics import median

from .answers import CALLERS, CONVERSATIONS, TOKENS, Rounds, burst_round
from .crowd import crowd
from .servers import Server, Site, site
from .table import Row

_GOAL = 1.1


@dataclass(frozen=True, slots=True)
class _Took:
    """What the rounds of answers took, all servers together."""

    costs: list[float] = field(default_factory=list)  # microseconds of CPU for an answer
    rates: list[float] = field(default_factory=list)  # answers per second

    @property
    def cost(self) -> float:
        return median(self.costs)

    @property
    def rate(self) -> float:
        return median(self.rates)


async def measure(where: Site, quick: bool) -> list[Row]:
    starts, rounds, seconds = (1, 2, 2.0) if quick else (3, 2, 4.0)
    one, two, apart = _Took(), _Took(), _Took()
    directory = where.directory / "elsewhere"
    directory.mkdir()
    async with site(where.cores, directory, where.log) as elsewhere:
        with where.provider() as provider:
            for _ in range(starts):
                with where.server(provider) as server:
                    await _measure([server], one, where, rounds, seconds)
                with where.server(provider, workers=2) as server:
                    await _measure([server], two, where, rounds, seconds)
                with where.server(provider) as server, elsewhere.server(provider) as other:
                    await _measure([server, other], apart, where, rounds, seconds)
    return _rows(one, two, apart)


async def _measure(servers: Sequence[Server], took: _Took, where: Site, rounds: int, seconds: float) -> None:
    async with AsyncExitStack() as stack:
        count = CALLERS // len(servers)
        crowds = [await stack.enter_async_context(crowd(server, count, CONVERSATIONS)) for server in servers]

        async def whole_round(seconds: float) -> list[Rounds]:
            each = [Rounds() for _ in servers]
            await asyncio.gather(
                *(
                    burst_round(askers, server, where.cores, seconds, answers)
                    for askers, server, answers in zip(crowds, servers, each, strict=True)
                )
            )
            return each

        await whole_round(1.0)  # connections, plans, caches
        for _ in range(rounds):
            each = await whole_round(seconds)
            answers = sum(one.answers[0] for one in each)
            spent = [one.spent[0] for one in each]
            took.costs.append(sum(one.cpu_seconds for one in spent) / answers * 1e6)
            took.rates.append(answers / max(one.seconds for one in spent))


def _rows(one: _Took, two: _Took, apart: _Took) -> list[Row]:
    return [
        Row(
            f"CPU of an answer of {TOKENS} tokens in a burst, two workers / one",
            two.cost / one.cost,
            _GOAL,
            [
                f"{two.cost:,.0f} / {one.cost:,.0f} µs of CPU of all processes of the server, which share one core",
                f"{two.rate:,.0f} / {one.rate:,.0f} answers/s",
            ],
            least=False,
        ),
        Row(
            "the same, two workers / two servers that share nothing, on the same core",
            two.cost / apart.cost,
            _GOAL,
            [f"{two.cost:,.0f} / {apart.cost:,.0f} µs: the rest of the row above is two processes on one core"],
            least=False,
        ),
    ]
