"""Streams that ask again and again, and how punctual the tokens of the answers are."""

import asyncio
import random
from collections.abc import Sequence

from aiworkspace.v1 import chat_pb2 as pb

from .crowd import Questioner
from .provider import SECONDS_PER_TOKEN, lateness

ANSWER_TOKENS = 256
_LATE_SECONDS = 0.25
_ANSWER_SECONDS = ANSWER_TOKENS * SECONDS_PER_TOKEN
_SETTLE_SECONDS = 1.0
_DRAIN_SECONDS = 60.0


class Score:
    """What arrived so far."""

    def __init__(self) -> None:
        self.punctual = 0  # tokens that were at most _LATE_SECONDS late
        self.tokens = 0
        self.messages = 0  # that brought them
        self.answers = 0
        self.failures = 0


class Stream:
    """One person who reads an answer to its end and asks the next question at once."""

    def __init__(self, asker: Questioner, score: Score) -> None:
        self.idle = asyncio.Event()
        self.idle.set()
        self._asker = asker
        self._score = score
        self._loop = asyncio.get_running_loop()
        self._stopping = False
        self._completed = False

    def start(self, seconds: float) -> None:
        """Asks within so many seconds. The fewer they are, the more the first answers differ in length.

        Either way the next questions come evenly spread over the time of an answer.
        """
        self._stopping = False
        if self.idle.is_set():
            self.idle.clear()
            shorter = random.random() * (1 - seconds / _ANSWER_SECONDS)
            tokens = max(1, round(ANSWER_TOKENS * (1 - shorter)))
            self._loop.call_later(random.uniform(0, seconds), self._ask, tokens)

    def stop(self) -> None:
        self._stopping = True

    def message(self, data: bytes) -> None:
        event = pb.SendMessageResponse.FromString(data).event
        if text := event.content_delta.text:
            now, score = self._loop.time(), self._score
            score.messages += 1
            for token in text.split():
                score.tokens += 1
                score.punctual += lateness(token, now) <= _LATE_SECONDS
        elif event.HasField("run_completed"):
            self._completed = True

    def end(self) -> None:
        self._score.answers += self._completed
        self._score.failures += not self._completed
        if self._stopping or not self._completed:
            self.idle.set()
        else:
            self._ask(ANSWER_TOKENS)

    def _ask(self, tokens: int) -> None:
        self._completed = False
        self._asker.ask(tokens, self)


class Load:
    """As many streams at a time as one wants, spread over all askers."""

    def __init__(self, askers: Sequence[Questioner]) -> None:
        self.score = Score()
        self._askers = askers
        self._streams: list[Stream] = []

    async def resize(self, count: int) -> None:
        """Adds streams, as slowly as the others ask again and again, or lets some end and waits for that."""
        while len(self._streams) < count:
            self._streams.append(Stream(self._askers[len(self._streams) % len(self._askers)], self.score))
        wanted, others = self._streams[:count], self._streams[count:]
        for stream in others:
            stream.stop()
        async with asyncio.timeout(_DRAIN_SECONDS):
            await asyncio.gather(*(stream.idle.wait() for stream in others))
        new = sum(stream.idle.is_set() for stream in wanted)
        seconds = _ANSWER_SECONDS * new / count if count else 0.0
        for stream in wanted:
            stream.start(seconds)
        await asyncio.sleep(seconds + _SETTLE_SECONDS if count else 0)
