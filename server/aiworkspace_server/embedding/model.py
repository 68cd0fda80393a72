"""A BERT encoder in numpy, with mean pooling: all-MiniLM-L6-v2 and models of the same shape.

The tokens of several texts are the rows of one matrix, without padding. Only attention looks at one text at a time, so
no work is spent on padding and no mask is needed.
"""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Ids = NDArray[np.int64]

_EPSILON = np.float32(1e-12)
_ROWS_AT_ONCE = 64  # of the widest matrix, so that what GELU works on stays in the processor's cache
# Abramowitz and Stegun 7.1.26: erf with an error below 1.5e-7, which is the precision of float32.
_ERF_P = np.float32(0.3275911)
_ERF = tuple(np.float32(each) for each in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592))


class Model:
    """The weights, mapped from their file, so that processes share them and rows that are not needed are not read."""

    def __init__(self, directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        self._weights = load_tensors(directory / "model.safetensors")
        self._heads = int(config["num_attention_heads"])
        self._layers = [self._layer(number) for number in range(config["num_hidden_layers"])]
        self.dimension = int(config["hidden_size"])
        self.most_tokens = int(config["max_position_embeddings"])

    def embed(self, texts: list[Ids]) -> Matrix:
        """Return a row of length 1 for each list of token ids. None may be empty or longer than `most_tokens`."""
        bounds = np.cumsum([0, *map(len, texts)])
        x = self._embeddings(np.concatenate(texts), np.concatenate([np.arange(len(ids)) for ids in texts]))
        for layer in self._layers:
            layer.apply(x, bounds, self._heads)
        pooled = np.add.reduceat(x, bounds[:-1], axis=0) / np.diff(bounds)[:, None].astype(np.float32)
        pooled /= np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), _EPSILON)
        return pooled.astype(np.float32, copy=False)

    def _embeddings(self, ids: Ids, positions: Ids) -> Matrix:
        words, places, kinds = (
            self._weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        x: Matrix = words[ids] + places[positions] + kinds[0]
        _normalize(x, *(self._weights[f"embeddings.LayerNorm.{part}"] for part in ("weight", "bias")))
        return x

    def _layer(self, number: int) -> "_Layer":
        prefix = f"encoder.layer.{number}."
        return _Layer({name.removeprefix(prefix): value for name, value in self._weights.items() if prefix in name})


class _Layer:
    """One layer: attention, then the feed-forward part, each added to its input and normalized."""

    def __init__(self, weights: dict[str, Matrix]) -> None:
        self._weights = weights

    def apply(self, x: Matrix, bounds: Ids, heads: int) -> None:
        """Replace the rows by the layer's output."""
        query, key, value = (self._dense(x, f"attention.self.{name}") for name in ("query", "key", "value"))
        query *= np.float32(1 / math.sqrt(x.shape[1] / heads))
        seen = np.empty_like(x)
        for start, end in pairwise(bounds):
            seen[start:end] = _attend(query[start:end], key[start:end], value[start:end], heads)
        x += self._dense(seen, "attention.output.dense")
        self._normalize(x, "attention.output.LayerNorm")
        wide = self._dense(x, "intermediate.dense")
        for start in range(0, len(wide), _ROWS_AT_ONCE):
            _gelu(wide[start : start + _ROWS_AT_ONCE])
        x += self._dense(wide, "output.dense")
        self._normalize(x, "output.LayerNorm")

    def _dense(self, x: Matrix, name: str) -> Matrix:
        result: Matrix = x @ self._weights[f"{name}.weight"].T
        result += self._weights[f"{name}.bias"]
        return result

    def _normalize(self, x: Matrix, name: str) -> None:
        _normalize(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])


def load_tensors(path: Path) -> dict[str, Matrix]:
    """Return the float32 tensors of a safetensors file, mapped read-only.

    The file begins with the length of a JSON object (8 bytes, little-endian), which has the place of each tensor.
    The library of that name would copy them.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    mapped = np.memmap(path, np.uint8, "r", offset=8 + length)
    tensors = {}
    for name, tensor in header.items():
        if tensor.get("dtype") == "F32":
            start, end = tensor["data_offsets"]
            tensors[name] = np.asarray(mapped[start:end]).view("<f4").reshape(tensor["shape"])
    return tensors


def _attend(query: Matrix, key: Matrix, value: Matrix, heads: int) -> Matrix:
    """Return what each token of one text takes from all of them. The query is already scaled."""
    shape = len(query), heads, -1
    scores: Matrix = query.reshape(shape).transpose(1, 0, 2) @ key.reshape(shape).transpose(1, 2, 0)
    scores -= scores.max(axis=2, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=2, keepdims=True)
    seen = scores @ value.reshape(shape).transpose(1, 0, 2)
    result: Matrix = seen.transpose(1, 0, 2).reshape(query.shape)
    return result


def _normalize(x: Matrix, weight: Matrix, bias: Matrix) -> None:
    """Bring each row to mean 0 and variance 1, then scale and shift it."""
    x -= x.mean(axis=1, keepdims=True)
    x /= np.sqrt(np.einsum("ij,ij->i", x, x)[:, None] / np.float32(x.shape[1]) + _EPSILON)
    x *= weight
    x += bias


def _gelu(x: Matrix) -> None:
    """Replace x by x · Φ(x), the exact GELU, where Φ(x) = (1 + erf(x / √2)) / 2."""
    z = np.abs(x)
    z *= np.float32(1 / math.sqrt(2))
    t = 1 / (1 + _ERF_P * z)
    tail = t * _ERF[0]
    for coefficient in _ERF[1:]:
        tail += coefficient
        tail *= t
    np.square(z, out=z)
    np.negative(z, out=z)
    np.exp(z, out=z)
    tail *= z  # 1 - erf(|x| / √2)
    tail *= np.abs(x) * np.float32(0.5)
    np.maximum(x, 0, out=x)
    x -= tail  # for both signs: x · Φ(x) = max(x, 0) - |x| · (1 - erf(|x| / √2)) / 2
