"""OpenAI's embeddings, from the provider's side. A vector is the sum of one for each word, whatever their order."""

import asyncio
import base64
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bill import count_words
from .script import HttpError

_NATIVE = {"text-embedding-3-large": 3072, "text-embedding-3-small": 1536}
_OTHERS = 384


def _unchanged(document: dict[str, Any]) -> Any:
    return document


@dataclass(frozen=True, slots=True)
class EmbeddingScript:
    """One answer."""

    error: HttpError | None = None
    until: asyncio.Event | None = None  # the response does not begin before it
    numbers: bool = False  # sends numbers whatever format is asked for
    change: Callable[[dict[str, Any]], Any] = _unchanged  # replaces the answer


def embeddings(body: dict[str, Any], *, numbers: bool) -> dict[str, Any]:
    """The answer to a request."""
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    dimension = body.get("dimensions") or _NATIVE.get(body["model"], _OTHERS)
    vectors = [vector(text, dimension) for text in texts]
    shown: list[Any] = [each.tolist() for each in vectors]
    if body.get("encoding_format") == "base64" and not numbers:
        shown = [base64.b64encode(each.tobytes()).decode() for each in vectors]
    tokens = count_words(texts)
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(shown)],
        "model": body["model"],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def vector(text: str, dimension: int) -> NDArray[np.float32]:
    """The vector of a text, not of length 1."""
    words = re.findall(r"\w+", text.lower()) or [text]
    found: NDArray[np.float32] = np.array([_of_word(word, dimension) for word in words]).sum(axis=0).astype(np.float32)
    return found


@lru_cache(maxsize=4096)
def _of_word(word: str, dimension: int) -> NDArray[np.float64]:
    return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(dimension)
