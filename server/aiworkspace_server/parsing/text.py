"""The canonical text of a file: what it is made of, and where each part of it stands in the file."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .failures import FailureReason, ParseFailed
from .limits import Limits

PIECE = 1 << 16  # code points of text that are handed on at once
BLOCKS_AT_ONCE = 250
MOST_OF_HEADING = 200  # characters of a heading in a place; the text has all of it

_SPLIT = "Split the file and upload its parts."

_NEWLINES = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
# Controls and lone surrogates, which neither PostgreSQL nor UTF-8 can hold; marks that are invisible inside words.
_REMOVED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\ufeff\ufffe\uffff\ud800-\udfff]")
_VISIBLE = re.compile("[^\\s\u00ad\u115f\u1160\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0]")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n){2,}")

Place = dict[str, Any]
"""Where a block stands: page, slide, sheet, first_row, last_row, chapter, line (from 1), headings (outermost first)."""


class Block(NamedTuple):
    """The half-open range [start, end) of the canonical text, in code points, that has one place."""

    start: int
    end: int
    place: Place


def clean(text: str) -> str:
    r"""Return the text in NFC, with \n for every newline and without controls and lone surrogates.

    What is removed leaves no gap: a word with a NUL inside stays one word.
    """
    text = _REMOVED.sub("", _NEWLINES.sub("\n", text))
    return unicodedata.normalize("NFC", text)


def one_line(text: str) -> str:
    """Return the text with every run of whitespace as one space: a cell of a table, or a heading."""
    return " ".join(clean(text).split())


def is_visible(text: str) -> bool:
    return _VISIBLE.search(text) is not None


class TextBuilder:
    """Collects the canonical text in reading order and hands it on in pieces.

    `emit` gets mappings with `text` (at most PIECE code points) or `blocks`. A parser sets `page_count` and
    `unread_pages`.
    """

    def __init__(
        self,
        limits: Limits,
        emit: Callable[[Mapping[str, Any]], None],
        recognize: Callable[[bytes], str] | None = None,
    ) -> None:
        self.limits = limits
        self.recognize = recognize  # returns the text in a picture (PGM); None if nothing can
        self.page_count = 0
        self.unread_pages: list[int] = []
        self.length = 0  # code points so far
        self._emit = emit
        self._pieces: list[str] = []
        self._pending = 0  # code points in _pieces
        self._blocks: list[tuple[int, int, Place]] = []
        self._block_count = 0
        self._start = 0
        self._place: Place | None = None

    def add(self, text: str, place: Place, *, joiner: str = "\n\n") -> None:
        """Append text. The joiner stands before it if the text before has the same place, which makes them one block.

        Text without a visible character is dropped. Raises ParseFailed if the text, or the number of its blocks,
        grows beyond its limit.
        """
        text = _BLANK_LINES.sub("\n\n", clean(text)).strip("\n").rstrip()
        if not is_visible(text):
            return
        if place == self._place:
            self._write(joiner)
        else:
            self._close_block()
            self._block_count += 1
            if self._block_count > self.limits.blocks:
                raise too_many_blocks(self.limits, place)
            self._write("\n\n" if self.length else "")
            self._start, self._place = self.length, dict(place)
        self._write(text)

    def finish(self) -> None:
        """Hand on what is left. Raises NO_TEXT if there was no text at all."""
        self._close_block()
        if not self.length:
            raise ParseFailed(FailureReason.NO_TEXT, "The file holds no text.")
        self._flush_text()
        self._flush_blocks()

    def check_pages(self, count: int) -> None:
        """Raise ParseFailed if the file has more pages than the limit."""
        if count > self.limits.pages:
            detail = f"The file has {count:,} pages; at most {self.limits.pages:,} are accepted. {_SPLIT}"
            raise ParseFailed(FailureReason.TOO_MUCH_TEXT, detail)

    def _write(self, text: str) -> None:
        self.length += len(text)
        if self.length > self.limits.text_code_points:
            raise too_much_text(self.limits, self._place)
        self._pieces.append(text)
        self._pending += len(text)
        if self._pending >= PIECE:
            self._flush_text()

    def _close_block(self) -> None:
        if self._place is not None:
            self._blocks.append((self._start, self.length, self._place))
            self._place = None
        if len(self._blocks) >= BLOCKS_AT_ONCE:
            self._flush_text()
            self._flush_blocks()

    def _flush_text(self) -> None:
        text = "".join(self._pieces)
        self._pieces, self._pending = [], 0
        for begin in range(0, len(text), PIECE):
            self._emit({"text": text[begin : begin + PIECE]})

    def _flush_blocks(self) -> None:
        if self._blocks:
            self._emit({"blocks": self._blocks})
            self._blocks = []


def too_much_text(limits: Limits, place: Place | None = None) -> ParseFailed:
    """`place` is where the limit is reached, if that is known."""
    most = f"The file has more than {limits.text_code_points:,} characters of text"
    return ParseFailed(FailureReason.TOO_MUCH_TEXT, f"{most}{_up_to(place)}. {_SPLIT}")


def too_many_blocks(limits: Limits, place: Place | None = None) -> ParseFailed:
    most = f"The text falls into more than {limits.blocks:,} parts, such as sections, pages or groups of rows"
    return ParseFailed(FailureReason.TOO_MUCH_TEXT, f"{most}{_up_to(place)}. {_SPLIT}")


def _up_to(place: Place | None) -> str:
    """Say where a place is, without words of the file: reasons are logged."""
    numbers = {"page": "page", "slide": "slide", "chapter": "chapter", "line": "line", "first_row": "row"}
    found = [f"{name} {place[key]}" for key, name in numbers.items() if place and key in place]
    return f"; the limit is reached at {found[0]}" if found else ""


class Headings:
    """The path of headings at the current position of a document."""

    def __init__(self) -> None:
        self._path: list[tuple[int, str]] = []

    def enter(self, level: int, title: str) -> None:
        """Begin a section. Sections of the same or a deeper level end."""
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        if title:
            self._path.append((level, title[:MOST_OF_HEADING]))

    def place(self, **place: Any) -> Place:
        """Return these keys with the path, which is left out while there is no heading."""
        return place | {"headings": [title for _, title in self._path]} if self._path else place
