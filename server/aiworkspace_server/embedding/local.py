"""The built-in model as an embedder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .base import Embedded
from .process import TextProcess

MODEL = "local/all-minilm-l6-v2"
DIMENSION = 384
WINDOW = 256  # tokens of the texts that it was trained with, special ones included
MOST_WINDOW = 512  # its positions
_TEXTS_AT_ONCE = 32  # about two seconds of work, after which others have their turn


class LocalEmbedder:
    """Runs the built-in model in two processes, so that a query does not wait for passages."""

    model = MODEL
    dimension = DIMENSION

    def __init__(self, passages: TextProcess, queries: TextProcess, window: int) -> None:
        self.window = window
        self._passages = passages
        self._queries = queries

    async def embed(self, texts: Sequence[str], *, query: bool) -> Embedded:
        """Return the vectors of texts; the model reads the beginning of those above the window."""
        process = self._queries if query else self._passages
        parts = [texts[at : at + _TEXTS_AT_ONCE] for at in range(0, len(texts), _TEXTS_AT_ONCE)]
        found = [await process.embed(part) for part in parts]
        vectors = [each.vectors for each in found] or [np.empty((0, DIMENSION), np.float32)]
        return Embedded(np.concatenate(vectors), sum(each.token_count for each in found))

    async def aclose(self) -> None:
        """End both processes."""
        await self._passages.aclose()
        await self._queries.aclose()


def tokenizer(weights: Path) -> Path:
    return weights / "tokenizer.json"
