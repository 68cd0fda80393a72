"""JSON as indented lines `key: value`, in the order of the file.

Quotes, braces and commas are left out: they make quotes hard to read, and get in the way of searches for whole words.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ..text import TextBuilder, is_visible, one_line
from . import lines

_DEEPEST_INDENT = 20
_BATCH = 1_000  # lines
_MOST_OF_GROUP = 2_000  # characters of the values in one block


def parse(text: str, out: TextBuilder) -> None:
    """Text that is no JSON after all, or nested too deep for the parser, is kept as plain text."""
    try:
        value = _load(text)
    except (ValueError, RecursionError):
        lines.parse(text, out)
    else:
        _write(value, out)


def parse_lines(text: str, out: TextBuilder) -> None:
    """One JSON value a line, in blocks of a bounded size with the number of their first line. Values stay whole."""
    group: list[str] = []
    first = size = 0
    for number, line in enumerate(text.split("\n"), 1):
        try:
            written = "\n".join(_lines(_load(line))) if line.strip() else ""
        except (ValueError, RecursionError):
            written = line
        if not is_visible(written):
            continue
        if group and size + len(written) > _MOST_OF_GROUP:
            out.add("\n\n".join(group), {"line": first})
            group, size = [], 0
        first = first if group else number
        group.append(written)
        size += len(written) + 2
    out.add("\n\n".join(group), {"line": first})


class _Pairs(list[tuple[str, Any]]):
    """An object of the file. Keys may repeat, and all are kept."""


# Numbers stay as they are written: they may have thousands of digits, or more than a float holds.
_load = json.JSONDecoder(
    object_pairs_hook=_Pairs, parse_int=str, parse_float=str, parse_constant=str, strict=False
).decode


def _write(value: Any, out: TextBuilder) -> None:
    batch: list[str] = []
    for line in _lines(value):
        batch.append(line)
        if len(batch) >= _BATCH:
            out.add("\n".join(batch), {}, joiner="\n")
            batch = []
    out.add("\n".join(batch), {}, joiner="\n")


def _lines(value: Any) -> Iterator[str]:
    """Depth first, without recursion."""
    stack: list[tuple[int, str, Any]] = [(0, "", value)]
    while stack:
        depth, label, current = stack.pop()
        indent = "  " * min(depth, _DEEPEST_INDENT)
        if isinstance(current, _Pairs) and current:
            children = [(depth + bool(label), _label(key), child) for key, child in current]
        elif isinstance(current, list) and current:
            children = [(depth + bool(label), "-", child) for child in current]
        else:
            yield f"{indent}{label} {_scalar(current)}".rstrip() if label else _scalar(current)
            continue
        if label:
            yield indent + label
        stack.extend(reversed(children))


@lru_cache(10_000)  # records have the same keys
def _label(key: str) -> str:
    return one_line(key) + ":"


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, list):
        return ""
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
