"""Rows of tables: of CSV files and of sheets."""

import re
from collections.abc import Iterable, Sequence

from ..text import Place, TextBuilder

_MOST = 2_000  # characters of the rows in one block
_MOST_OF_HEADER = 300
_NUMBER = re.compile(r"[\s\d.,:;+\-/%$€£¥()#*]*")


def row_text(cells: Iterable[str]) -> str:
    """Return the cells of a row, apart by tabs. Whitespace inside a cell becomes one space."""
    return "\t".join([" ".join(cell.split()) for cell in cells]).rstrip("\t")


def add_rows(out: TextBuilder, rows: Iterable[tuple[int, str]], place: Place) -> None:
    """Append rows with their numbers (from 1) in blocks of a bounded size.

    If the first row names the columns, the places of all others have it as their heading, so that each row is found by
    the names of its columns.
    """
    block: list[str] = []
    first = last = size = 0
    header: str | None = None
    for number, text in rows:
        if not text.strip():
            continue
        if block and (size + len(text) > _MOST or number - last > _MOST_OF_GAP):
            out.add("\n".join(block), place | {"first_row": first, "last_row": last})
            block, size = [], 0
        if header is None:
            header = _column_names(text)
            heading = {"headings": [*place.get("headings", ()), header]} if header else {}
        elif not block and heading:
            place = place | heading
        first = number if not block else first
        last = number
        block.append(text)
        size += len(text) + 1
    if block:
        out.add("\n".join(block), place | {"first_row": first, "last_row": last})


def _column_names(text: str) -> str:
    """The names of the columns if this row has them: several different cells, none of which is a number or long."""
    cells = text.split("\t")
    named = len(cells) > 1 and all(cell and not _NUMBER.fullmatch(cell) and len(cell) <= 60 for cell in cells)
    return " · ".join(cells)[:_MOST_OF_HEADER] if named and len(set(cells)) == len(cells) else ""


def padded(cells: Sequence[tuple[int, str]]) -> list[str]:
    """Return the values of a sparse row, given with their columns. Small gaps are kept, so that columns line up."""
    values: list[str] = []
    before = 0
    for column, value in cells:
        gap = column - before - 1
        values += [""] * (gap if gap <= _MOST_OF_GAP else 1)
        values.append(value)
        before = column
    return values


_MOST_OF_GAP = 20
