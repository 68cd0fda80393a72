"""The text of documents in MongoDB, in pieces.

All offsets are code points of the version's whole text. The pieces follow each other without gaps and, where they
can, end between blocks. Each attempt to read a file stores its own pieces, so that two of them never mix.

The driver decodes a batch of pieces at once, on the event loop. The bounds of a piece keep that to a few milliseconds,
and a piece far below the 16 MiB of a document of MongoDB.
"""

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from ..kit.ids import new_id
from ..kit.mongo import Mongo
from ..parsing.text import Block, Place

_PIECE = 64 << 10  # code points
MOST_BLOCKS = 1000  # of a piece
MOST_OF_PLACES = 256 << 10  # of a piece, unless a single block has more; in characters, and some for each heading
_PIECES_READ_AT_ONCE = 4
_OF_HEADING = 16  # characters that stand for the cost of a heading besides its own


class Piece(NamedTuple):
    """A part of the text, with the parts of the blocks that are in it."""

    start: int
    text: str
    blocks: Sequence[Block]

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def cut(text: str, blocks: Sequence[Block]) -> Iterator[Piece]:
    """Cut a text into pieces. A block that is larger than a piece continues in the next one."""
    start, first = 0, 0
    while start < len(text):
        end = _end_of_piece(text, blocks, first, start)
        within = list[Block]()
        while first < len(blocks) and blocks[first].start < end:
            block = blocks[first]
            within.append(Block(max(block.start, start), min(block.end, end), block.place))
            if block.end > end:
                break
            first += 1
        yield Piece(start, text[start:end], within)
        start = end


def _end_of_piece(text: str, blocks: Sequence[Block], first: int, start: int) -> int:
    limit, after_last = min(start + _PIECE, len(text)), _after_last_block(blocks, first)
    if limit == len(text) and after_last == len(blocks):
        return limit
    end = start
    while first < after_last and blocks[first].end <= limit:
        end = blocks[first].end
        first += 1
    if end > start:
        return end
    space = max(text.rfind("\n", start, limit), text.rfind(" ", start, limit))
    return space + 1 if space > start else limit


def _after_last_block(blocks: Sequence[Block], first: int) -> int:
    """Return the index of the first block that is too much for a piece whose first block is `first`."""
    end, size = first, 0
    while end < min(len(blocks), first + MOST_BLOCKS):
        size += size_of_place(blocks[end].place)
        if size > MOST_OF_PLACES and end > first:
            break
        end += 1
    return end


def size_of_place(place: Place) -> int:
    return len(place.get("sheet", "")) + sum(len(each) + _OF_HEADING for each in place.get("headings", ()))


class Texts:
    """The texts of one organization."""

    def __init__(self, mongo: Mongo, org_id: UUID) -> None:
        self._pieces = mongo.tenant("document_texts", org_id)

    async def store(self, version_id: UUID, text_id: UUID, text: str, blocks: Sequence[Block]) -> None:
        """Store the text that an attempt has read of a version, under an id of its own."""
        for n, piece in enumerate(cut(text, blocks)):
            document: dict[str, Any] = {"_id": new_id(), "version_id": version_id, "text_id": text_id, "n": n}
            document |= {"start": piece.start, "end": piece.end, "text": piece.text}
            await self._pieces.insert(document | {"blocks": [list(block) for block in piece.blocks]})

    async def read(
        self, version_id: UUID, text_id: UUID, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[Piece, None]:
        """Yield the pieces that have something of [start, end), in their order; None means to the end."""
        where: dict[str, Any] = {"version_id": version_id, "text_id": text_id, "end": {"$gt": start}}
        if end is not None:
            where["start"] = {"$lt": end}
        async for each in (
            self._pieces.find(where, ["start", "text", "blocks"]).sort("n", 1).batch_size(_PIECES_READ_AT_ONCE)
        ):
            yield Piece(each["start"], each["text"], [Block(*block) for block in each["blocks"]])

    async def delete(self, version_id: UUID, *, keep: UUID | None = None) -> None:
        """Delete the texts of a version, except the one to keep."""
        where: dict[str, Any] = {"version_id": version_id}
        await self._pieces.delete_in_batches(where | {"text_id": {"$ne": keep}} if keep else where)

    async def delete_attempt(self, version_id: UUID, text_id: UUID) -> None:
        """Delete what an attempt has stored."""
        await self._pieces.delete_in_batches({"version_id": version_id, "text_id": text_id})

    async def delete_all(self) -> bool:
        """Delete all texts of the organization. Return whether there were any."""
        return await self._pieces.delete_in_batches({}) > 0
