"""Takes the markers by which a model cites out of its text, while it streams.

A marker is `[1]`, `[1, 2]` or `[1: "exact words"]`: numbers of up to three digits, and up to 300 characters of quote.
These are text and stay: markers in code blocks and code spans; `[1](…)`, a link; `[1]: …` at the beginning of a line, a
definition; `[x][1]`, a reference; `\\[1]`; `a[1]`, `row_sum[1]` and `rowSum[1]`, an index, as far as that can be told
from `word[1]`; and whatever is not of this form, such as `[x]`, `[^1]`, `[1-3]` and `[2024]`.
"""

import re
from dataclasses import dataclass

from .code import CodeTracker

LONGEST_MARKER = 310  # characters, with the space before it: no more than this is ever held back
_LONGEST_SPAN = 2000  # characters of text before a marker in which the supported sentence is looked for

_NUMBERED = re.compile(r"\[ ?(\d{1,3}(?:, ?\d{1,3}){0,9}) ?\]")
_QUOTED = re.compile(r"\[(\d{1,3}): ?[\"\u201c](.{1,300}?)[\"\u201d]\]", re.DOTALL)
_UNFINISHED = re.compile(
    r"\[ ?(?:\d{1,3}, ?){0,9}(?:\d{1,3}[, ]?)?|\[\d{1,3}:(?: ?(?:[\"\u201c].{0,301})?)?", re.DOTALL
)
_CANDIDATE = re.compile(r" ?\[| \Z")
_INDEXED = re.compile(r"(?<!\w)(?:[a-z]|[A-Za-z0-9]+_\w*[A-Za-z0-9]|[a-z]+[A-Z]\w*)\Z")
_LONGEST_NAME = 64  # characters before an index

_SENTENCE_END = re.compile(r"[.!?\u2026][\"')\]\u201d\u2019*_]*\s+|[\u3002\uff01\uff1f]+|\n+")
_TRAILING = " \t\r\n.!?\u2026:;,\u3002\uff01\uff1f\"')\u201d\u2019*_"
_LEADING = " \t\r\n.!?\u2026:;,\u3002\uff01\uff1f*-\u2022#>)"


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker that was taken out. Positions are code points of the text without markers."""

    numbers: tuple[int, ...]
    quote: str  # empty: none
    start: int  # of the words before it that it supports
    end: int


class MarkerFilter:
    """Its output does not depend on how the text is cut into pieces."""

    def __init__(self, said: str = "") -> None:
        """`said`: the text before, without markers."""
        self._held = ""
        self._code = CodeTracker()
        self._tail = ""  # the end of the text so far
        self._length = 0  # of the text so far
        self._last = (0, 0)  # span of the last marker
        self._out: list[str] = []
        self._markers: list[Marker] = []
        self._emit(said)
        self._out.clear()

    @property
    def held(self) -> str:
        """What is held back, because it may become a marker."""
        return self._held

    @property
    def length(self) -> int:
        """The number of code points of the text so far."""
        return self._length

    def feed(self, text: str) -> tuple[str, list[Marker]]:
        """Take the next part of the text. Return what can be sent, and the markers that were in it."""
        self._held += text
        return self._take(final=False)

    def end(self) -> tuple[str, list[Marker]]:
        """Return what was held back, as there is no more text."""
        return self._take(final=True)

    def supported(self) -> tuple[int, int]:
        """Return the span of the sentence that ends here, from the last marker on if that is within it."""
        offset = self._length - len(self._tail)
        end = len(self._tail.rstrip())
        body = self._tail[: len(self._tail[:end].rstrip(_TRAILING))]
        start = max((found.end() for found in _SENTENCE_END.finditer(body)), default=0)
        last_start, last_end = self._last[0] - offset, self._last[1] - offset
        if last_end > start and (end <= last_end or not body[last_end:].strip(_LEADING)):
            start = max(last_start, 0)  # only punctuation since the last marker: it supports the same
            end = max(last_end, start)
        else:
            start = max(start, last_end if self._last[1] else 0)
            start += len(self._tail[start:end]) - len(self._tail[start:end].lstrip(_LEADING))
        self._last = offset + min(start, end), offset + end
        return self._last

    def _take(self, *, final: bool) -> tuple[str, list[Marker]]:
        at = 0
        while at < len(self._held):
            found = _CANDIDATE.search(self._held, at)
            begin = found.start() if found else len(self._held)
            self._emit(self._held[at:begin])
            at = begin
            if found is None:
                break
            taken = self._decide(found, final=final)
            if not taken:
                break
            at += taken
        self._held = self._held[at:]
        out, markers = "".join(self._out), self._markers
        self._out, self._markers = [], []
        return out, markers

    def _decide(self, found: re.Match[str], *, final: bool) -> int:
        """Take a marker, or the characters that may have begun one. Return how many; 0 if more text is needed."""
        text, bracket = self._held, found.end() - 1
        if self._code.inside or not self._may_begin(spaced=len(found[0]) > 1 or found[0] == " "):
            self._emit(found[0])
            return len(found[0])
        if found[0] == " ":
            if not final:
                return 0
            self._emit(" ")
            return 1
        marker = _NUMBERED.match(text, bracket) or _QUOTED.match(text, bracket)
        if marker is None and not final and _UNFINISHED.fullmatch(text, bracket):
            return 0
        if marker and marker.end() == len(text) and not final:
            return 0  # the next character decides
        follows = text[marker.end() : marker.end() + 1] if marker else ""
        if marker is None or follows == "(" or (follows == ":" and self._at_line_start()):
            self._emit(found[0])
            return len(found[0])
        if len(found[0]) > 1 and follows.isalnum():
            self._emit(" ")
        self._mark(marker)
        return marker.end() - found.start()

    def _may_begin(self, *, spaced: bool) -> bool:
        """Return whether what was said before allows a marker here."""
        return spaced or not (self._tail.endswith(("]", "\\")) or _INDEXED.search(self._tail[-_LONGEST_NAME:]))

    def _at_line_start(self) -> bool:
        return not self._tail.rpartition("\n")[2].strip()

    def _mark(self, found: re.Match[str]) -> None:
        numbers = tuple(dict.fromkeys(int(number) for number in found[1].split(",")))
        quote = found[2] if found.re is _QUOTED else ""
        self._markers.append(Marker(numbers, quote, *self.supported()))

    def _emit(self, text: str) -> None:
        if text:
            self._out.append(text)
            self._code.feed(text)
            self._length += len(text)
            self._tail = (self._tail + text)[-_LONGEST_SPAN:]
