"""Puts the messages of a child together."""

import re
import sys
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import orjson

from .failures import FailureReason, ParseFailed
from .limits import Limits
from .text import Block, Place, too_many_blocks, too_much_text

_MOST_OF_PLACE = 16 << 10  # bytes as JSON; the longest that a parser of ours sends has ten headings of 200 characters
_MOST_OF_PLACES = 64 << 20  # bytes as JSON; of all blocks together
_MOST_MEMORY = 128 << 20  # bytes of the places of all blocks. Short headings take twelve times as much as in JSON
_NUMBERS = frozenset(("page", "slide", "first_row", "last_row", "chapter", "line"))
_MOST_OF_NUMBER = (1 << 31) - 1
_MEDIA_TYPE = re.compile(r"[a-z]+/[a-z0-9.+-]{1,100}")


@dataclass(slots=True)
class Parsed:
    """The canonical text of a file. Blocks are in order, do not overlap, and each has text."""

    media_type: str
    text: str
    blocks: list[Block]
    page_count: int  # 0: the format has no pages
    unread_pages: list[int]  # pages, from 1, that have content but no text
    peak_memory: int  # bytes of the child


class Assembly:
    """Puts the messages of a child together. Trusts none of them: the child may have been taken over by its file."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pieces: list[str] = []
        self._length = 0
        self._blocks: list[Block] = []
        self._end = 0  # of the last block
        self._place_bytes = 0
        self._memory = 0  # of the places
        self._headings: list[str] = []  # of the last block
        self._sheet = ""

    def add(self, message: dict[str, Any]) -> None:
        """Raises ParseFailed if the message breaks a rule of the canonical text."""
        if "text" in message:
            piece = message["text"]
            require(isinstance(piece, str) and piece != "" and "\0" not in piece)
            self._pieces.append(piece)
            self._length += len(piece)
            if self._length > self._limits.text_code_points:
                raise too_much_text(self._limits)
        else:
            for block in message["blocks"]:
                self._add_block(*block)

    def finish(self, done: dict[str, Any]) -> Parsed:
        media_type, pages, unread = done["media_type"], done["page_count"], done["unread_pages"]
        require(self._end > 0 and self._end <= self._length)
        require(isinstance(media_type, str) and _MEDIA_TYPE.fullmatch(media_type) is not None)
        require(_is_number(pages, 0, self._limits.pages) and isinstance(unread, list) and len(unread) <= pages)
        require(all(_is_number(page, 1, pages) for page in unread) and len(set(unread)) == len(unread))
        require(_is_number(done["peak_memory"], 0, 1 << 62))
        return Parsed(media_type, "".join(self._pieces), self._blocks, pages, unread, done["peak_memory"])

    def _add_block(self, start: int, end: int, place: Place) -> None:
        require(_is_number(start, self._end, self._length) and _is_number(end, start + 1, self._length))
        require(isinstance(place, dict) and all(_is_part(key, value) for key, value in place.items()))
        size = len(orjson.dumps(place))
        require(size <= _MOST_OF_PLACE)
        self._place_bytes += size
        self._memory += sys.getsizeof(place) + self._share(place)
        too_large = self._place_bytes > _MOST_OF_PLACES or self._memory > _MOST_MEMORY
        if len(self._blocks) >= self._limits.blocks or too_large:
            raise too_many_blocks(self._limits)
        self._blocks.append(Block(start, end, place))
        self._end = end

    def _share(self, place: Place) -> int:
        """Let a place have the names of the place before it where they are equal. Return the bytes of the others."""
        size = 0
        if "sheet" in place:
            if place["sheet"] != self._sheet:
                self._sheet = place["sheet"]
                size += sys.getsizeof(self._sheet)
            place["sheet"] = self._sheet
        if "headings" in place:
            if place["headings"] != self._headings:
                pairs = zip(self._headings, place["headings"], strict=False)
                same = [old for old, new in takewhile(lambda pair: pair[0] == pair[1], pairs)]
                others = place["headings"][len(same) :]
                self._headings = same + others
                size += sys.getsizeof(self._headings) + sum(map(sys.getsizeof, others))
            place["headings"] = self._headings
        return size


def _is_number(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most  # a bool is an int as well


def _is_part(key: str, value: object) -> bool:
    """Whether a place may have this."""
    if key in _NUMBERS:
        return _is_number(value, 1, _MOST_OF_NUMBER)
    if key == "headings":
        return isinstance(value, list) and all(isinstance(each, str) and "\0" not in each for each in value)
    return key == "sheet" and isinstance(value, str) and "\0" not in value


def require(holds: bool) -> None:
    if not holds:
        raise broken_rules()


def broken_rules() -> ParseFailed:
    return ParseFailed(FailureReason.PARSER_CRASHED, "The parser sent a result that breaks its own rules.")
