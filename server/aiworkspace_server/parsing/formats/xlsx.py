"""XLSX: the rows of each sheet, cell by cell as they are stored, however far apart they are."""

import datetime
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

# openpyxl imports both when they are there, for what is not needed here. They cost 20 MiB and start threads.
sys.modules.setdefault("numpy", None)  # type: ignore[arg-type]
sys.modules.setdefault("PIL", None)  # type: ignore[arg-type]

from openpyxl import load_workbook  # noqa: E402  # see above
from openpyxl.worksheet._reader import FORMULA_TAG, VALUE_TAG, WorkSheetParser  # noqa: E402
from openpyxl.worksheet.formula import ArrayFormula, DataTableFormula  # noqa: E402

from ..archives import checked_package  # noqa: E402
from ..failures import FailureReason, ParseFailed  # noqa: E402
from ..text import MOST_OF_HEADING, TextBuilder  # noqa: E402
from .tables import add_rows, padded, row_text  # noqa: E402


def parse(file: BinaryIO, out: TextBuilder) -> None:
    package = checked_package(file, out.limits)
    try:
        workbook = load_workbook(package, read_only=True, data_only=True, keep_links=False)
        for sheet in workbook.worksheets:
            add_rows(out, _rows(workbook, sheet), {"sheet": sheet.title[:MOST_OF_HEADING]})
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise ParseFailed(FailureReason.MALFORMED, f"The workbook cannot be read: {error}.") from error


class _Parser(WorkSheetParser):  # type: ignore[misc]  # openpyxl has no types
    """Reads values, and the formula where a cell has none: no program has calculated it yet.

    The value of a text that is empty has this type. openpyxl writes empty values without it, which are none.
    """

    def parse_cell(self, element: Any) -> dict[str, Any]:
        cell: dict[str, Any] = super().parse_cell(element)
        is_empty_text = element.get("t") == "str" and element.find(VALUE_TAG) is not None
        if cell["value"] is None and not is_empty_text and element.find(FORMULA_TAG) is not None:
            cell["value"] = self.parse_formula(element)
        return cell


def _rows(workbook: Any, sheet: Any) -> Iterator[tuple[int, str]]:
    """The rows that have cells. openpyxl's own iterator fills the gaps, up to 17 billion cells."""
    with sheet._get_source() as source:
        parser = _Parser(
            source,
            sheet._shared_strings,
            data_only=True,
            epoch=workbook.epoch,
            date_formats=workbook._date_formats,
            timedelta_formats=workbook._timedelta_formats,
        )
        for number, cells in parser.parse():
            values = ((cell["column"], _written(cell["value"])) for cell in cells)
            yield number, row_text(padded([(column, value) for column, value in values if value]))


def _written(value: Any) -> str:
    """A value as a person writes it: dates in ISO 8601, numbers with the 15 digits that Excel keeps."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, datetime.datetime):
        return (
            value.date().isoformat()
            if value.time() == datetime.time()
            else value.isoformat(sep=" ", timespec="seconds")
        )
    if isinstance(value, datetime.time):
        return value.isoformat(timespec="seconds")
    if isinstance(value, ArrayFormula):
        return str(value.text)
    if isinstance(value, DataTableFormula):
        return f"=TABLE({value.ref})"
    return str(value)
