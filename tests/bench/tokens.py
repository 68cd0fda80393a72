"""Tokens per second: how many paced streams one core carries, beside a bare stream of one message per token."""

import asyncio
import sys
from dataclasses import dataclass
from statistics import median

from aiworkspace.v1 import chat_pb2 as pb

from .crowd import crowd
from .empty import STREAM
from .http2 import connect, headers
from .machine import Cores, Spent, Times
from .paced import ANSWER_TOKENS, Load
from .provider import SECONDS_PER_TOKEN
from .servers import Server, Site
from .table import Row

_PEOPLE = 32
_CONVERSATIONS = 64  # of each: more than it has streams
_BARE_STREAMS = 64
_FIRST_STREAMS = 64
_GROWTH = 1.3
_PUNCTUAL = 0.95  # of the tokens
_TALKING = 0.9  # of the time
_CHANCES = 3


@dataclass(frozen=True, slots=True)
class Step:
    """What came of so many streams."""

    streams: int
    spent: Spent
    punctual: int
    tokens: int
    messages: int
    answers: int

    @property
    def rate(self) -> float:
        """Punctual tokens per second."""
        return self.punctual / self.spent.seconds

    @property
    def on_pace(self) -> bool:
        """Whether tokens were punctual, and answers began and ended in less than a tenth of the time they took."""
        return self.punctual >= _PUNCTUAL * self.tokens and self._talking >= _TALKING

    @property
    def _talking(self) -> float:
        """How much of the time the streams had tokens to be sent."""
        return self.rate * SECONDS_PER_TOKEN / self.streams

    def __str__(self) -> str:
        return (
            f"{self.streams} streams: talking {self._talking:.0%} of the time,"
            f" {self.punctual / max(1, self.tokens):.0%} of the tokens punctual;"
            f" {self.spent.cpu_seconds / self.spent.seconds:.0%} of the core used,"
            f" {self.spent.foreign_share:.0%} by others"
        )


async def measure(site: Site, quick: bool) -> list[Row]:
    seconds = 1.5 if quick else 3.0
    people = _PEOPLE // 4 if quick else _PEOPLE
    with site.provider() as provider, site.empty() as empty, site.server(provider) as server:
        async with crowd(server, people, _CONVERSATIONS) as askers:
            load = Load(askers)
            ramp = Ramp(load, server, site.cores, seconds)
            bare = [await _bare(empty, site.cores, seconds)]
            await ramp.climb(_FIRST_STREAMS if quick else None)
            for _ in range(0 if quick else 2):
                await load.resize(0)
                bare.append(await _bare(empty, site.cores, seconds))
                await ramp.halve()
            await load.resize(0)
            bare.append(await _bare(empty, site.cores, seconds))
    return _rows(ramp, bare)


class Ramp:
    """Looks for the largest load at which tokens are on pace."""

    def __init__(
        self, load: Load, server: Server, cores: Cores, seconds: float, first_streams: int = _FIRST_STREAMS
    ) -> None:
        self._load = load
        self._server = server
        self._cores = cores
        self._seconds = seconds
        self._first_streams = first_streams
        self.good: Step | None = None
        self.bad: Step | None = None

    async def climb(self, most: int | None) -> None:
        """Up until it is too much, or more than `most`."""
        streams = self._first_streams
        while self.bad is None and streams <= (most or streams):
            await self._try(streams)
            streams = round(streams * _GROWTH)

    async def halve(self) -> None:
        """Half-way between the largest that was good and the smallest that was bad."""
        assert self.bad
        await self._try(((self.good.streams if self.good else 0) + self.bad.streams) // 2)

    async def _try(self, streams: int) -> None:
        """A bad step gets other chances, since neighbours on the machine make noise."""
        await self._load.resize(streams)
        for _ in range(_CHANCES):
            step = await self._step(streams)
            if step.on_pace:
                self.good = step
                return
        self.bad = step

    async def _step(self, streams: int) -> Step:
        score = self._load.score
        counts, start = _counts(self._load), Times.now(self._server.pid, self._cores)
        await asyncio.sleep(self._seconds)
        spent = Spent.between(start, Times.now(self._server.pid, self._cores), self._cores)
        if score.failures:
            raise RuntimeError(f"{score.failures} answers did not complete")
        step = Step(
            streams, spent, *(after - before for before, after in zip(counts, _counts(self._load), strict=True))
        )
        print(f"  {step}", file=sys.stderr, flush=True)
        return step


def _counts(load: Load) -> tuple[int, int, int, int]:
    score = load.score
    return score.punctual, score.tokens, score.messages, score.answers


class _Counter:
    def __init__(self) -> None:
        self.messages = 0

    def message(self, data: bytes) -> None:
        self.messages += 1

    def end(self) -> None:
        """With the connection."""


async def _bare(empty: Server, cores: Cores, seconds: float) -> float:
    """Messages per second of a bare server that does nothing but send them."""
    connections = [await connect(empty.address, headers(STREAM)) for _ in range(4)]
    counter = _Counter()
    for number in range(_BARE_STREAMS):
        connections[number % len(connections)].call(pb.SendMessageRequest().SerializeToString(), counter)
    await asyncio.sleep(0.3)
    before, start = counter.messages, Times.now(empty.pid, cores)
    await asyncio.sleep(seconds)
    spent = Spent.between(start, Times.now(empty.pid, cores), cores)
    rate = (counter.messages - before) / spent.seconds
    for connection in connections:
        connection.close()
    await asyncio.sleep(0.3)  # until the server has noticed
    return rate


def _rows(ramp: Ramp, bare: list[float]) -> list[Row]:
    if ramp.good is None:
        raise RuntimeError("not even the fewest streams were on pace: is the machine busy?")
    good, reference = ramp.good, median(bare)
    notes = [
        f"{good.streams} streams of 50 tokens/s, {good.rate:,.0f} tokens/s on pace / {reference:,.0f} messages/s;"
        f" {good.answers / good.spent.seconds:.0f} answers/s of {ANSWER_TOKENS} tokens, all stored and settled",
        f"{good.spent.cpu_seconds / good.tokens * 1e6:.0f} µs of server CPU a token, all of SendMessage included;"
        f" {good.tokens / good.messages:.1f} tokens a message",
        *_doubts(good, ramp.bad),
    ]
    return [
        Row(
            "tokens/s through SendMessage / bare grpc.aio stream of a message per token",
            good.rate / reference,
            None,
            [*notes, "make bench-peers puts LiteLLM's proxy beside it."],
        ),
    ]


def _doubts(good: Step, bad: Step | None) -> list[str]:
    spent = good.spent
    doubts = [f"At that load the server used {spent.cpu_seconds / spent.seconds:.0%} of its core."]
    if bad is None:
        doubts.append("More was not tried: a lower bound.")
    if spent.foreign_share > 0.05:
        doubts.append(f"Others took {spent.foreign_share:.0%} of the server's core: a lower bound.")
    if spent.load_share > 0.9:
        doubts.append(f"The load's cores were {spent.load_share:.0%} busy: a lower bound.")
    return doubts
