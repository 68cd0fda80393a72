"""Tolerant reading of providers' JSON: no field is trusted to exist or to have the right type."""

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

from .base import DeltaKind

SURROGATE = re.compile(r"[\ud800-\udfff]")
_HIGH_SURROGATE = re.compile(r"[\ud800-\udbff]\Z")
_DEEPEST = 8
_MOST_TOKENS = 10**15  # larger numbers are not token counts
_LONGEST_ID = 200
_MOST_DIGITS = 400

# The fields in which a content part may have its text, in the order in which they are tried.
_TEXT_FIELDS = ("text", "content", "refusal", "thinking", "reasoning", "summary", "value")
_THOUGHTS = ("thinking", "reasoning", "thought")


def loads(data: bytes) -> object:
    """Parse JSON, also with lone surrogates, NaN, control characters or invalid UTF-8. Raises ValueError."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data.decode("utf-8", "replace"), strict=False, parse_int=_int)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _int(digits: str) -> float:
    """Parse a number. One with thousands of digits, which Python refuses to parse, is infinite."""
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def record(value: object) -> dict[str, Any]:
    """Return the object, or an empty one."""
    return value if isinstance(value, dict) else {}


def first(value: object) -> dict[str, Any]:
    """Return the object, or the first one of a list, or an empty one."""
    return next((each for each in value if isinstance(each, dict)), {}) if isinstance(value, list) else record(value)


def string(value: object) -> str:
    return value if isinstance(value, str) else ""


def identifier(value: object) -> str:
    """Return an id that can be stored and shown, or an empty string."""
    return value if isinstance(value, str) and len(value) <= _LONGEST_ID and value.isprintable() else ""


def count(value: object) -> int | None:
    """Return a number of tokens, also from a decimal string or 3.0; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(_MOST_TOKENS)):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    return number if number is not None and abs(number) <= _MOST_TOKENS else None


def texts(kind: DeltaKind, value: object, depth: int = 0) -> Iterator[tuple[DeltaKind, str]]:
    """Yield the texts of a content: a string, a part, or a list of them. A part's type tells thinking from text."""
    if isinstance(value, str):
        if value:
            yield kind, value
    elif depth < _DEEPEST and isinstance(value, list):
        for each in value:
            yield from texts(kind, each, depth + 1)
    elif depth < _DEEPEST and isinstance(value, dict):
        if any(word in string(value.get("type")) for word in _THOUGHTS):
            kind = "thinking"
        name = next((name for name in _TEXT_FIELDS if value.get(name)), None)
        if name:
            yield from texts("thinking" if name in _THOUGHTS else kind, value[name], depth + 1)


class Halves:
    """Joins the halves of characters that were escaped as surrogates and split between two pieces of one text."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    def feed(self, text: str) -> str:
        """Return the text without lone surrogates. A half at its end waits for the next piece."""
        if text.isascii() and not self._half:
            return text
        if self._half:
            text, self._half = self._half + text, ""
        if not SURROGATE.search(text):
            return text
        if _HIGH_SURROGATE.search(text):
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def end(self) -> str:
        """Return the replacement of a half that is left at the end, or an empty string."""
        half, self._half = self._half, ""
        return "\ufffd" if half else ""
