"""The pieces in which texts are stored: what the driver decodes at once is bounded."""

import random

import pytest

from aiworkspace_server.documents.texts import MOST_BLOCKS, MOST_OF_PLACES, Piece, cut, size_of_place
from aiworkspace_server.parsing.text import Block, Place


def text_of(lengths: list[int], place: Place) -> tuple[str, list[Block]]:
    """A text with blocks of these lengths, two newlines apart."""
    blocks, start = list[Block](), 0
    for length in lengths:
        blocks.append(Block(start, start + length, place))
        start += length + 2
    return "\n\n".join("x" * length for length in lengths), blocks


def joined(pieces: list[Piece]) -> list[Block]:
    """The blocks of pieces, with those in one that continue in the next."""
    blocks = list[Block]()
    for piece in pieces:
        for block in piece.blocks:
            if blocks and blocks[-1].end == block.start:
                blocks[-1] = blocks[-1]._replace(end=block.end)
            else:
                blocks.append(block)
    return blocks


@pytest.mark.parametrize(
    ("lengths", "place", "pieces"),
    [
        ([], {}, 0),
        ([100], {}, 1),
        ([1] * 1000, {"line": 1}, 1),
        ([1] * 1001, {"line": 1}, 2),
        ([1] * 21_000, {"line": 1}, 21),
        ([1000] * 200, {"line": 1}, 4),
        ([200_000], {"line": 1}, 4),
        ([1] * 400, {"headings": ["h" * 200] * 10}, 4),
        ([1] * 3, {"headings": [""] * 20_000}, 3),
        ([1] * 400, {"sheet": "s" * 2000, "first_row": 1}, 4),
    ],
)
def test_text_is_cut_into_pieces_of_a_bounded_size(lengths: list[int], place: Place, pieces: int) -> None:
    text, blocks = text_of(lengths, place)
    found = list(cut(text, blocks))
    assert len(found) == pieces
    assert faults(found, text, blocks) == []


def test_text_of_any_blocks_is_cut_without_gaps() -> None:
    chance = random.Random(7)
    for _ in range(8):
        lengths = [chance.choice((1, 1, 1, 30, 2000, 90_000)) for _ in range(chance.randrange(3000))]
        text, blocks = text_of(lengths, {"headings": ["h" * chance.randrange(200)] * chance.randrange(10)})
        assert faults(list(cut(text, blocks)), text, blocks) == []


def faults(pieces: list[Piece], text: str, blocks: list[Block]) -> list[str]:
    """What is wrong with the pieces of a text."""
    rules = {
        "the text is another": "".join(piece.text for piece in pieces) == text,
        "there are gaps": [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces)][: len(pieces)],
        "the blocks are others": joined(pieces) == blocks,
        "a text is too long": all(len(piece.text) <= 64 << 10 for piece in pieces),
        "blocks are too many": all(len(piece.blocks) <= MOST_BLOCKS for piece in pieces),
        "places are too large": all(
            len(piece.blocks) == 1 or sum(size_of_place(each.place) for each in piece.blocks) <= MOST_OF_PLACES
            for piece in pieces
        ),
        "a block is outside": all(
            piece.start <= each.start < each.end <= piece.end for piece in pieces for each in piece.blocks
        ),
    }
    return [fault for fault, holds in rules.items() if not holds]
