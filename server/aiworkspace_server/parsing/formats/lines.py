"""Plain text and source code: groups of paragraphs, each with the line where it begins."""

from ..text import TextBuilder, clean

_MOST = 4_000  # characters of a group, as long as the longest chunk


def parse(text: str, out: TextBuilder) -> None:
    """Cut at blank lines, or at any line where a paragraph is longer than a group may be. Lines stay whole."""
    group: list[str] = []
    first, size, blank_at = 1, 0, 0
    for line in clean(text).split("\n"):
        if size + len(line) > _MOST and group:
            cut = blank_at if blank_at * 2 > len(group) else len(group)
            out.add("\n".join(group[:cut]), {"line": first + _leading_blanks(group)})
            first, group = first + cut, group[cut:]
            size, blank_at = sum(map(len, group)) + len(group), 0
        group.append(line)
        size += len(line) + 1
        if not line.strip():
            blank_at = len(group)
    out.add("\n".join(group), {"line": first + _leading_blanks(group)})


def _leading_blanks(group: list[str]) -> int:
    return next((at for at, line in enumerate(group) if line.strip()), 0)
