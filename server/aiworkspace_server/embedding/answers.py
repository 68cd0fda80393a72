"""Reads the answer of an embedding server: nothing in it is trusted to be there or to be right."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..llm.failures import Failures
from ..llm.lenient import count, loads, record
from ..llm.tokens import estimate_tokens
from .base import SPECIAL_TOKENS, Embedded, EmbeddingRefused, Vectors


def read_answer(data: bytes, texts: list[str], dimension: int, failures: Failures) -> Embedded:
    """Return the vectors in the order of the texts, each of length 1, and the tokens that were billed.

    Raises EmbeddingRefused if they are not what was asked for, and ProviderError if this is no answer.
    """
    try:
        document = record(loads(data))
    except ValueError:
        document = {}
    if document.get("error"):
        raise failures.from_event(document, begun=False)
    rows = document.get("data")
    if not isinstance(rows, list):
        raise failures.no_answer("it has no data; check the address")
    vectors = np.empty((len(texts), dimension), np.float32)
    for number, row in zip(_order(rows, len(texts)), rows, strict=True):
        vectors[number] = _vector(record(row).get("embedding"), dimension)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise EmbeddingRefused("a vector has no direction: it is zero or not finite")
    return Embedded(vectors / lengths, _tokens(record(document.get("usage")), texts))


def _order(rows: list[Any], expected: int) -> list[int]:
    """Return the number of the text for each row."""
    numbers = [record(row).get("index", position) for position, row in enumerate(rows)]
    if len(rows) != expected or set(map(repr, numbers)) != set(map(repr, range(expected))):
        raise EmbeddingRefused(f"the answer has not one vector for each of {expected} texts, but {len(rows)}")
    return numbers


def _vector(value: object, dimension: int) -> Vectors:
    """Return a vector that was sent as base64 of float32, or as numbers."""
    try:
        if isinstance(value, str):
            vector: Vectors = np.frombuffer(base64.b64decode(value, validate=True), "<f4")
        else:
            vector = np.array(value, np.float32)
    except (ValueError, TypeError, OverflowError, binascii.Error):
        raise EmbeddingRefused("a vector is neither numbers nor base64 of them") from None
    if vector.shape != (dimension,):
        raise EmbeddingRefused(
            f"a vector has {vector.size} numbers, not {dimension}; set EMBEDDING_DIMENSION to what the model returns"
        )
    return vector


def _tokens(usage: Mapping[str, Any], texts: list[str]) -> int:
    """Return the tokens that the server counted, or an estimate if it cannot be right."""
    counted = count(usage.get("prompt_tokens"))
    most = sum(len(text.encode("utf-8", "replace")) + SPECIAL_TOKENS for text in texts)
    if counted is not None and len(texts) <= counted <= most:
        return counted
    return sum(map(estimate_tokens, texts))
