"""Divides the blocks of a long text among requests, so that none keeps the event loop or another text waiting."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .base import Block

_CHARACTERS = 500_000  # of a request: about two seconds of work
_LOOK_BACK = 1_000  # characters in which a long block may have a space


class Piece(NamedTuple):
    """[start, end) of the text, and the number of its block."""

    start: int
    end: int
    block: int


def parts(text: str, blocks: Sequence[Block]) -> Iterator[list[Piece]]:
    """Yield the pieces of each request: blocks in their order. Long ones are cut, after a space if possible."""
    part: list[Piece] = []
    for number, (start, end, _) in enumerate(blocks):
        for piece in _cut(text, start, end, number):
            if part and piece.end - part[0].start > _CHARACTERS:
                yield part
                part = []
            part.append(piece)
    if part:
        yield part


def _cut(text: str, start: int, end: int, number: int) -> Iterator[Piece]:
    while end - start > _CHARACTERS:
        stop = start + _CHARACTERS
        space = max(text.rfind(char, stop - _LOOK_BACK, stop) for char in "\n ")
        stop = space + 1 or stop
        yield Piece(start, stop, number)
        start = stop
    yield Piece(start, end, number)
