"""Whole answers that a provider sends in a burst: CPU of the server for one, beside an empty call."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import median

from aiworkspace.v1 import chat_pb2 as pb

from .crowd import Questioner, crowd
from .machine import Cores, Spent, Times
from .servers import Server, Site
from .table import Row
from .unary import Target, empty_target, measure_round

CALLERS = 16
CONVERSATIONS = 24  # of each
TOKENS = 200
_GOAL = 18  # times the CPU of an empty call


class Caller:
    """Asks one question after the other until it is told to stop, or so many."""

    def __init__(self, asker: Questioner, tokens: int = TOKENS, most: float = inf) -> None:
        self.answers = 0
        self._tokens = tokens
        self._most = most
        self.stopping = False
        self.idle = asyncio.Event()
        self._asker = asker
        self._ask()

    def _ask(self) -> None:
        self._completed = False
        self._asker.ask(self._tokens, self, at_once=True)

    def message(self, data: bytes) -> None:
        if pb.SendMessageResponse.FromString(data).event.HasField("run_completed"):
            self._completed = True

    def end(self) -> None:
        if not self._completed:
            raise RuntimeError("an answer did not complete")
        self.answers += 1
        if self.stopping or self.answers >= self._most:
            self.idle.set()
        else:
            self._ask()


@dataclass(slots=True)
class Rounds:
    """What the rounds of answers took."""

    answers: list[int] = field(default_factory=list)
    spent: list[Spent] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """Microseconds of the server's CPU for an answer."""
        return median(spent.cpu_seconds / count * 1e6 for count, spent in zip(self.answers, self.spent, strict=True))

    @property
    def rate(self) -> float:
        """Answers per second."""
        return median(count / spent.seconds for count, spent in zip(self.answers, self.spent, strict=True))


async def measure(site: Site, quick: bool) -> list[Row]:
    rounds, seconds = (2, 2.0) if quick else (6, 4.0)
    with site.provider() as provider, site.empty() as empty, site.server(provider) as server:
        async with crowd(server, CALLERS, CONVERSATIONS) as askers:
            calls, answers = empty_target(empty), Rounds()
            await burst_round(askers, server, site.cores, 1.0, Rounds())  # connections, plans, caches
            for _ in range(rounds):
                await measure_round(calls, site.cores, seconds / 4)
                await burst_round(askers, server, site.cores, seconds, answers)
    return [_row(calls, answers)]


async def burst_round(
    askers: Sequence[Questioner], server: Server, cores: Cores, seconds: float, rounds: Rounds
) -> None:
    start, callers = Times.now(server.pid, cores), [Caller(asker) for asker in askers]
    await asyncio.sleep(seconds)
    for caller in callers:
        caller.stopping = True
    async with asyncio.timeout(30):
        await asyncio.gather(*(caller.idle.wait() for caller in callers))
    rounds.answers.append(sum(caller.answers for caller in callers))
    rounds.spent.append(Spent.between(start, Times.now(server.pid, cores), cores))


def _row(calls: Target, answers: Rounds) -> Row:
    busy = median(spent.cpu_seconds / spent.seconds for spent in answers.spent)
    return Row(
        f"CPU of an answer of {TOKENS} tokens in a burst, {CALLERS} callers / empty call",
        answers.cost / calls.cost,
        _GOAL,
        [
            f"{answers.cost:,.0f} / {calls.cost:.0f} µs of server CPU",
            f"{answers.rate:,.0f} answers/s with the server's core {busy:.0%} busy: databases share the other core",
        ],
        least=False,
    )
