"""CSV and TSV."""

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterator

from ..failures import FailureReason, ParseFailed
from ..text import TextBuilder, clean
from .tables import add_rows, row_text

_DELIMITERS = "\t;|,"  # of equal ones the first: a comma inside of a field is more likely than the others
_QUOTED = re.compile(r'(?<![^,;\t|\n])"[^"]*(?:""[^"]*)*"(?![^,;\t|\n])')
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")
_LINES_TO_LOOK_AT = 50


def parse(text: str, out: TextBuilder, *, delimiter: str | None = None) -> None:
    """The delimiter of a CSV file is the one that splits its first lines most evenly."""
    csv.field_size_limit(sys.maxsize)
    text = clean(text)
    rows = csv.reader(_lines(text), delimiter=delimiter or _delimiter(text))
    try:
        add_rows(out, _rows(rows), {})
    except csv.Error as error:
        raise ParseFailed(FailureReason.MALFORMED, f"The table cannot be read: {error}.") from error


def parse_tabs(text: str, out: TextBuilder) -> None:
    parse(text, out, delimiter="\t")


def _rows(rows: Iterator[list[str]]) -> Iterator[tuple[int, str]]:
    for number, cells in enumerate(rows, 1):
        yield number, row_text(cells)


def _lines(text: str) -> Iterator[str]:
    return (found.group() for found in re.finditer(r"[^\n]*\n|[^\n]+", text))


def _delimiter(text: str) -> str:
    sample = _QUOTED.sub("", text[: 1 << 16])
    lines = [line for line in sample.split("\n")[:_LINES_TO_LOOK_AT] if line.strip()]
    only_decimal = "," not in _DECIMAL_COMMA.sub("", "\n".join(lines))

    def evenness(delimiter: str) -> tuple[int, bool, int]:
        """How many lines have the usual number of fields, whether no number has it inside, and the number of fields."""
        counts = Counter(line.count(delimiter) + 1 for line in lines)
        fields, lines_with = counts.most_common(1)[0] if counts else (1, 0)
        return (lines_with, delimiter != "," or not only_decimal, fields) if fields > 1 else (0, False, 0)

    return max(_DELIMITERS, key=evenness)
