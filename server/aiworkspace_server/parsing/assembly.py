"""Puts the messages of a child together."""

from dataclasses import dataclass
from typing import Any

from .failures import FailureReason, ParseFailed
from .limits import Limits
from .text import Block, Place


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

    def add(self, message: dict[str, Any]) -> None:
        """Raises ParseFailed if the message breaks a rule of the canonical text."""
        if "text" in message:
            piece = message["text"]
            require(isinstance(piece, str) and "\0" not in piece)
            self._pieces.append(piece)
            self._length += len(piece)
            require(self._length <= self._limits.text_code_points)
        else:
            for block in message["blocks"]:
                self._add_block(*block)

    def finish(self, done: dict[str, Any]) -> Parsed:
        require(self._end > 0 and self._end <= self._length)
        return Parsed(
            media_type=str(done["media_type"]),
            text="".join(self._pieces),
            blocks=self._blocks,
            page_count=int(done["page_count"]),
            unread_pages=[int(page) for page in done["unread_pages"]],
            peak_memory=int(done["peak_memory"]),
        )

    def _add_block(self, start: int, end: int, place: Place) -> None:
        require(self._end <= start < end <= self._length and isinstance(place, dict))
        self._blocks.append(Block(start, end, place))
        self._end = end


def require(holds: bool) -> None:
    if not holds:
        raise broken_rules()


def broken_rules() -> ParseFailed:
    return ParseFailed(FailureReason.PARSER_CRASHED, "The parser sent a result that breaks its own rules.")
