"""The figures, a line for each experiment."""

from collections.abc import Mapping

from .verdict import Figures, Skipped

Row = Figures | Skipped | None  # None: it could not be carried through

_MOST_SHOWN = 20
_WIDTHS = (51, 7, 8, 8, 8, 6, 8, 9, 6, 9, 10)


def _columns(*cells: str) -> str:
    first, *others = zip(cells, _WIDTHS, strict=True)
    return f"{first[0]:<{first[1]}}" + "".join(f"{cell:>{width}}" for cell, width in others)


HEAD = "\n".join(
    (
        _columns("", "", "", "failed", "acknow-", "", "ledger", "", "stuck", "longest", ""),
        _columns(
            *("experiment", "calls", "refused", "else", "ledged", "lost", "differs"),
            *("adjusted", "runs", "hang", "recovery"),
        ),
        "-" * sum(_WIDTHS),
    )
)


def line(name: str, row: Row) -> str:
    if row is None:
        return f"{name:<{_WIDTHS[0]}} FAILED"
    if isinstance(row, Skipped):
        return f"{name:<{_WIDTHS[0]}} skipped: {row}"
    counts = (row.calls, row.refused, row.failed, row.acknowledged, row.lost, row.difference, row.adjusted, row.stuck)
    times = (f"{seconds:.1f} s" if seconds >= 0.05 else "-" for seconds in (row.hang, row.slowest))
    return _columns(name, *map(str, counts), *times) + ("  FAILED" if row.faults() else "")


def total(rows: Mapping[str, Row]) -> str:
    """The line below the experiments: sums, and of hangs and recoveries the longest."""
    found = [row for row in rows.values() if isinstance(row, Figures)]
    names = ("calls", "refused", "failed", "acknowledged", "lost", "difference", "adjusted", "stuck")
    sums = (str(sum(getattr(row, name) for row in found)) for name in names)
    times = (max((getattr(row, name) for row in found), default=0.0) for name in ("hang", "slowest"))
    return "-" * sum(_WIDTHS) + "\n" + _columns("total", *sums, *(f"{seconds:.1f} s" for seconds in times))


def show_faults(rows: Mapping[str, Row]) -> int:
    """Says what does not hold, and what nobody knows. Returns the exit code."""
    skipped = [name for name, row in rows.items() if isinstance(row, Skipped)]
    bad = {name: faults for name, row in rows.items() if (faults := _faults(row))}
    for name, faults in bad.items():
        print(f"\nFAILED: {name}", *faults[:_MOST_SHOWN], sep="\n  ")
        if len(faults) > _MOST_SHOWN:
            print(f"  and {len(faults) - _MOST_SHOWN} more")
    if skipped:
        print(f"Skipped: {len(skipped)}, of which nobody knows whether they hold.")
    if bad:
        print(f"\nNot everything holds: {len(bad)} of {len(rows)} experiments failed.")
    elif len(skipped) < len(rows):
        print("Everything else holds." if skipped else "Everything holds.")
    return int(bool(bad))


def _faults(row: Row) -> list[str]:
    if row is None:
        return ["it could not be carried through"]
    return [] if isinstance(row, Skipped) else row.faults()
