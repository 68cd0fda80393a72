"""Taking an answer to its end, for tests."""

from collections.abc import AsyncIterable
from dataclasses import dataclass, field

from aiworkspace_server.llm.base import (
    Delta,
    Finish,
    FinishReason,
    ModelRequest,
    Parameters,
    Piece,
    Provider,
    ProviderError,
    TokenUsage,
    Turn,
)

MODEL = "gpt-4o-mini"
EVERYTHING = Parameters(temperature=1.5, stop=("END", "."), seed=-7, reasoning_effort="high")


@dataclass
class Answer:
    """Everything that came, read by read, and how it ended."""

    reads: list[list[Piece]] = field(default_factory=list)
    error: ProviderError | None = None

    @property
    def pieces(self) -> list[Piece]:
        return [piece for read in self.reads for piece in read]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces if isinstance(piece, Delta) and piece.kind == "text")

    @property
    def thinking(self) -> str:
        return "".join(piece.text for piece in self.pieces if isinstance(piece, Delta) and piece.kind == "thinking")

    @property
    def usages(self) -> list[TokenUsage]:
        return [piece for piece in self.pieces if isinstance(piece, TokenUsage)]

    @property
    def finish(self) -> FinishReason | None:
        return self.pieces[-1].reason if self.pieces and isinstance(self.pieces[-1], Finish) else None


def question(
    text: str = "Say hello.",
    *,
    model: str = MODEL,
    system: str = "",
    limit: int = 1000,
    parameters: Parameters = Parameters(),  # noqa: B008 - frozen
    request_id: str = "",
) -> ModelRequest:
    return ModelRequest(model, system, [Turn("user", text)], limit, parameters, request_id)


async def answer(provider: Provider, request: ModelRequest | None = None) -> Answer:
    return await gather(provider.stream(request or question()))


async def gather(stream: AsyncIterable[list[Piece]]) -> Answer:
    result = Answer()
    try:
        async for read in stream:
            result.reads.append(read)
    except ProviderError as error:
        result.error = error
    return result
