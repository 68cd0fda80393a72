"""Two workers beside one: what it costs that one process may follow what another one does."""

from collections.abc import Mapping

from .answers import CALLERS, CONVERSATIONS, TOKENS, Rounds, burst_round
from .crowd import crowd
from .servers import Server, Site
from .table import Row

_GOAL = 1.1


async def measure(site: Site, quick: bool) -> list[Row]:
    starts, rounds, seconds = (1, 2, 2.0) if quick else (3, 2, 4.0)
    took = {1: Rounds(), 2: Rounds()}
    with site.provider() as provider:
        for _ in range(starts):
            for workers, answers in took.items():
                await _measure(site, provider, workers, answers, rounds, seconds)
    return [_row(took)]


async def _measure(site: Site, provider: Server, workers: int, answers: Rounds, rounds: int, seconds: float) -> None:
    with site.server(provider, workers) as server:
        async with crowd(server, CALLERS, CONVERSATIONS) as askers:
            await burst_round(askers, server, site.cores, 1.0, Rounds())
            for _ in range(rounds):
                await burst_round(askers, server, site.cores, seconds, answers)


def _row(took: Mapping[int, Rounds]) -> Row:
    one, two = took[1], took[2]
    return Row(
        f"CPU of an answer of {TOKENS} tokens in a burst, two workers / one",
        two.cost / one.cost,
        _GOAL,
        [
            f"{two.cost:,.0f} / {one.cost:,.0f} µs of CPU of all processes of the server, which share one core",
            f"{two.rate:,.0f} / {one.rate:,.0f} answers/s",
        ],
        least=False,
    )
