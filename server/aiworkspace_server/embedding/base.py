"""What an embedder is, its errors, and chunks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Place = Mapping[str, object]  # where a block is in its file
Block = tuple[int, int, Place]  # [start, end) in code points of a text

SPECIAL_TOKENS = 8  # that a server whose tokenizer is not known may add to each text


class EmbeddingUnavailable(Exception):
    """No vectors now, for a reason that is not in the texts: try again later. The text is for logs."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds, if the server gave any


class EmbeddingRefused(Exception):
    """The same texts will be refused again, or the server sends vectors that cannot be used. The text is for logs."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a text: [start, end) in code points."""

    start: int
    end: int
    place: Place
    heading: str  # the heading path, which is indexed and embedded before the text, but is not quoted
    token_count: int  # of what is embedded, special tokens included; by the embedder's tokenizer, or an upper bound


class Embedded(NamedTuple):
    vectors: Vectors  # a row of length 1 for each text, in their order
    token_count: int  # as billed


class Embedder(Protocol):
    """A model that turns texts into vectors."""

    @property
    def model(self) -> str:
        """Return its id, "provider/name"."""

    @property
    def dimension(self) -> int: ...

    @property
    def window(self) -> int:
        """Return the most tokens that it reads of a text."""

    async def embed(self, texts: Sequence[str], *, query: bool) -> Embedded:
        """Return the vectors of texts: queries, which somebody waits for, or passages.

        Texts longer than the window lose their end, or are refused. Raises EmbeddingUnavailable or EmbeddingRefused.
        """

    async def aclose(self) -> None: ...


def with_heading(heading: str, text: str) -> str:
    """Return what is indexed and embedded of a chunk."""
    return f"{heading}\n{text}" if heading else text
