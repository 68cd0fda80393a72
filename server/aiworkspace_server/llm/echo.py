"""The model echo/echo, which needs no key: it repeats the message at the pace of a real model."""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from itertools import islice

from .base import Delta, Finish, ModelInfo, ModelRequest, Piece, SourceText, TokenUsage
from .prices import ECHO_INPUT_NANOS, ECHO_OUTPUT_NANOS
from .sources import disarm, with_sources

OPENING = "This is an echo, not an AI. You said: "
_MOST_ECHOED_WORDS = 500
_QUOTED_WORDS = 12  # of each source
_CONTEXT_TOKENS = 400_000  # room for the largest message, so that it can be tried too
# A token is a word with the space after it. Leading space belongs to no token.
_WORD = re.compile(r"\S+\s*")

_MODELS = (
    ModelInfo(
        id="echo/echo",
        provider="echo",
        name="echo",
        display_name="Echo (no AI, for trying things out)",
        context_tokens=_CONTEXT_TOKENS,
        input_price=ECHO_INPUT_NANOS * 1_000_000,
        output_price=ECHO_OUTPUT_NANOS * 1_000_000,
    ),
)


class EchoProvider:
    """Deterministic, with exact usage after every word, so that a cancelled answer has exact usage, too."""

    name = "echo"

    def __init__(self, tokens_per_second: float) -> None:
        """0 tokens per second means unlimited."""
        self._interval = 1 / tokens_per_second if tokens_per_second else 0.0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[list[Piece], None]:
        request.on_sent()
        words = _answer(request)
        spoken = words[: request.max_output_tokens]
        whole = with_sources(request)
        inputs = sum(_count(text) for text in (whole.system, *(turn.text for turn in whole.turns)))
        begin = asyncio.get_running_loop().time()
        for said, word in enumerate(spoken, 1):
            await self._pace(begin, said)
            yield [Delta("text", word), TokenUsage(inputs, 0, 0, said, 0)]
        yield [TokenUsage(inputs, 0, 0, len(spoken), 0), Finish("stop" if len(spoken) == len(words) else "length")]

    @property
    def away(self) -> bool:
        return False

    async def models(self) -> Sequence[ModelInfo]:
        return _MODELS

    async def has(self, model: str) -> bool:
        return self.knows(model)

    def knows(self, model: str) -> bool:
        return model == "echo"

    def context_tokens(self, model: str) -> int | None:
        return _CONTEXT_TOKENS

    async def aclose(self) -> None:
        """Do nothing: there are no connections."""

    async def _pace(self, begin: float, said: int) -> None:
        """Wait until word number `said` is due, counted from the start: a late reader does not delay later words."""
        due = begin + said * self._interval
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))


def _answer(request: ModelRequest) -> list[str]:
    asked = next((turn.text for turn in reversed(request.turns) if turn.role == "user"), "")
    echoed = (word.group() for word in islice(_WORD.finditer(asked), _MOST_ECHOED_WORDS))
    words = [*_WORD.findall(OPENING), *echoed]
    if request.sources:
        words = _WORD.findall("\n\n".join(["".join(words).rstrip(), *map(_cite, request.sources)]))
    text = "".join(words)
    ends = [end for stop in request.parameters.stop if (end := text.find(stop)) >= 0]
    return _WORD.findall(text[: min(ends)]) if ends else words


def _cite(source: SourceText) -> str:
    """Return the beginning of a passage as a quotation, so that citations can be tried out too."""
    quoted = " ".join(disarm(source.text).split()[:_QUOTED_WORDS])
    return f"{source.name} says: {quoted} [{source.number}]"


def _count(text: str) -> int:
    return len(text.split())  # ten times as fast as the pattern, which matters for a megabyte
