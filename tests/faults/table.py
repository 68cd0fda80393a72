"""The figures, a line for each experiment."""

from collections.abc import Mapping

from .verdict import Figures

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


def line(name: str, row: Figures | None) -> str:
    if row is None:
        return f"{name:<{_WIDTHS[0]}} FAILED"
    slowest = f"{row.slowest:.1f} s" if row.slowest else "-"
    cells = [str(each) for each in (row.runs, row.lost, row.difference, row.adjusted, row.stuck)]
    return _columns(name, *cells, slowest) + ("  FAILED" if row.faults() else "")


def show_faults(rows: Mapping[str, Figures | None]) -> int:
    """Says what does not hold. Returns the exit code."""
    bad = {name: row.faults() if row else ["it could not be carried through"] for name, row in rows.items()}
    bad = {name: faults for name, faults in bad.items() if faults}
    for name, faults in bad.items():
        print(f"\nFAILED: {name}", *faults, sep="\n  ")
    print("Everything holds." if not bad else "")
    return int(bool(bad))
