"""What was measured, against what was wanted."""

from collections.abc import Sequence
from dataclasses import dataclass, field

_WIDTHS = (66, 12, 9)


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. `ratio` is what the goal is about; without a goal it informs."""

    what: str
    ratio: float
    goal: float | None
    notes: Sequence[str] = field(default=())
    unit: str = ""
    least: bool = True  # whether the goal is the least ratio; otherwise the greatest
    digits: int = 2

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        reached = self.ratio >= self.goal if self.least else self.ratio <= self.goal
        return "reached" if reached else "NOT reached"


def show(rows: Sequence[Row]) -> str:
    lines = [_line("row", "measured", "goal", ""), "-" * 100]
    for row in rows:
        sign = "≥" if row.least else "≤"
        goal = "" if row.goal is None else f"{sign} {row.goal:g}{row.unit}"
        lines.append(_line(row.what, f"{row.ratio:.{row.digits}f}{row.unit}", goal, row.verdict))
        lines.extend(f"    {note}" for note in row.notes)
    return "\n".join(lines)


def _line(what: str, measured: str, goal: str, verdict: str) -> str:
    first, second, third = _WIDTHS
    return f"{what:<{first}}{measured:>{second}}  {goal:<{third}}{verdict}".rstrip()
