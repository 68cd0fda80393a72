"""The figures, a line for each experiment."""

from collections.abc import Mapping

from .verdict import Figures, Skipped

Row = Figures | Skipped | None  # None: it could not be carried through

_WIDTHS = (50, 6, 8, 12, 10, 7, 10)


def _columns(*cells: str) -> str:
    first, *others = zip(cells, _WIDTHS, strict=True)
    return f"{first[0]:<{first[1]}}" + "".join(f"{cell:>{width}}" for cell, width in others)


HEAD = "\n".join(
    (
        _columns("", "", "lost", "ledger", "", "stuck", "slowest"),
        _columns("experiment", "runs", "answers", "difference", "adjusted", "runs", "recovery"),
        "-" * sum(_WIDTHS),
    )
)


def line(name: str, row: Row) -> str:
    if row is None:
        return f"{name:<{_WIDTHS[0]}} FAILED"
    if isinstance(row, Skipped):
        return f"{name:<{_WIDTHS[0]}} skipped: {row}"
    slowest = f"{row.slowest:.1f} s" if row.slowest else "-"
    cells = [str(each) for each in (row.runs, row.lost, row.difference, row.adjusted, row.stuck)]
    return _columns(name, *cells, slowest) + ("  FAILED" if row.faults() else "")


def show_faults(rows: Mapping[str, Row]) -> int:
    """Says what does not hold, and what nobody knows. Returns the exit code."""
    skipped = [name for name, row in rows.items() if isinstance(row, Skipped)]
    bad = {name: faults for name, row in rows.items() if (faults := _faults(row))}
    for name, faults in bad.items():
        print(f"\nFAILED: {name}", *faults, sep="\n  ")
    if skipped:
        print(f"Skipped: {len(skipped)}, of which nobody knows whether they hold.")
    print("" if bad or len(skipped) == len(rows) else "Everything else holds." if skipped else "Everything holds.")
    return int(bool(bad))


def _faults(row: Row) -> list[str]:
    if row is None:
        return ["it could not be carried through"]
    return [] if isinstance(row, Skipped) else row.faults()
