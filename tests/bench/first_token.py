"""Time to the first token: what the server adds to the provider's own, to one stream and to sixteen at a time."""

import asyncio
import random
import time
from collections.abc import Sequence
from statistics import median, quantiles
from typing import cast

from aiworkspace.v1 import chat_pb2 as pb

from .crowd import Questioner, crowd
from .machine import Spent, Times
from .provider import question
from .servers import Server, Site
from .table import Row

_PEOPLE = 16
_CONVERSATIONS = 16  # of each
_SHORT, _LONG = 3, 40  # tokens of an answer to one stream, which has to end before the next, and to one of sixteen
_SHORT_PAUSE, _LONG_PAUSE = 0.04, 1.0  # the most seconds before the next question; sixteen must not ask in step
MANNER = {1: (_SHORT, _SHORT_PAUSE), 16: (_LONG, _LONG_PAUSE)}
_GOALS_MS = {1: 3, 16: 5}


async def measure(site: Site, quick: bool) -> list[Row]:
    rounds, seconds = (2, 1.5) if quick else (5, 2.5)
    added: dict[int, list[float]] = {1: [], 16: []}
    spent = []
    with site.provider() as provider, site.server(provider) as server:
        async with crowd(server, _PEOPLE, _CONVERSATIONS) as askers:
            await ask(askers, 1.0, _SHORT, _SHORT_PAUSE)  # connections, plans, caches
            for _ in range(rounds):
                own = median(await ask_provider(provider, seconds / 2))
                for streams, seen in added.items():
                    start = Times.now(server.pid, site.cores)
                    taken = await ask(askers[:streams], seconds, *MANNER[streams])
                    spent.append(Spent.between(start, Times.now(server.pid, site.cores), site.cores))
                    seen.extend(value - own for value in taken)
    return [_row(streams, seen, spent) for streams, seen in added.items()]


class _Answer:
    """When the first token of an answer came, and its end."""

    def __init__(self) -> None:
        self.first = 0.0  # perf_counter
        self.completed = False
        self.ended = asyncio.Event()

    def message(self, data: bytes) -> None:
        event = pb.SendMessageResponse.FromString(data).event
        if not self.first and event.content_delta.text:
            self.first = time.perf_counter()
        self.completed = self.completed or event.HasField("run_completed")

    def end(self) -> None:
        self.ended.set()


async def ask(askers: Sequence[Questioner], seconds: float, tokens: int, pause: float) -> list[float]:
    """Seconds to the first token of each answer; all ask one question after the other."""
    until = time.perf_counter() + seconds
    taken = await asyncio.gather(*(_converse(asker, until, tokens, pause) for asker in askers))
    return [value for values in taken for value in values]


async def ask_together(askers: Sequence[Questioner], times: int) -> list[float]:
    """Seconds to the first token of each answer; all ask at the same moment."""
    taken = []
    for _ in range(times):
        taken += await asyncio.gather(*(_first_token(asker, _SHORT) for asker in askers))
        await asyncio.sleep(_SHORT_PAUSE)
    return taken


async def _converse(asker: Questioner, until: float, tokens: int, pause: float) -> list[float]:
    taken = []
    while time.perf_counter() < until:
        await asyncio.sleep(random.uniform(0, pause))
        taken.append(await _first_token(asker, tokens))
    return taken


async def _first_token(asker: Questioner, tokens: int) -> float:
    start, answer = time.perf_counter(), _Answer()
    asker.ask(tokens, answer)
    async with asyncio.timeout(60):
        await answer.ended.wait()
    if not answer.completed:
        raise RuntimeError("an answer did not complete")
    return answer.first - start


class _Direct(asyncio.Protocol):
    """Asks the provider as the server does, and looks for the first token."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> asyncio.Future[float]:
        """The seconds until it came. The answer has one token."""
        self._received = b""
        self._start = time.perf_counter()
        self._first = 0.0
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._done

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._first and b'"delta":{"content":' in self._received:
            self._first = time.perf_counter()
        if self._received.endswith(b"0\r\n\r\n"):
            self._done.set_result(self._first - self._start)


async def ask_provider(provider: Server, seconds: float) -> list[float]:
    host, _, port = provider.address.partition(":")
    transport, direct = await asyncio.get_running_loop().create_connection(_Direct, host, int(port))
    body = b'{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"%b"}]}' % question(1).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: %b\r\ncontent-length: %d\r\n\r\n" % (
        provider.address.encode(),
        len(body),
    )
    taken = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        taken.append(await direct.ask(request + body))
        await asyncio.sleep(_SHORT_PAUSE / 2)
    transport.close()
    return taken


def _row(streams: int, added: Sequence[float], spent: Sequence[Spent]) -> Row:
    late = quantiles(added, n=20)[-1]
    doubts = []
    if (foreign := median(one.foreign_share for one in spent)) > 0.05:
        doubts.append(f"Others took {foreign:.0%} of the server's core: an upper bound.")
    if (busy := median(one.load_share for one in spent)) > 0.9:
        doubts.append(f"The load's cores were {busy:.0%} busy: an upper bound.")
    return Row(
        f"first token added over the provider's own, {streams} stream{'s' * (streams > 1)}, median",
        median(added) * 1000,
        _GOALS_MS[streams],
        [f"p95 {late * 1000:.1f} ms, of {len(added)}. Two writes that wait for the disk are in it.", *doubts],
        unit=" ms",
        least=False,
    )
