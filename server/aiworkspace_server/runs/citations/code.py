"""Follows Markdown text and tells what of it is code: there, [1] is no citation."""

import re

_TOKEN = re.compile(r"`+|~+|\n|[^`~\n]+")
_BEFORE_FENCE = " \t\r>*+-.)0123456789"  # list markers and quotations, in which a code block may begin
_FENCE = 3


class CodeTracker:
    """Fenced blocks, also unfinished ones, and code spans, which end at the end of their line at the latest.

    Indented code blocks are not known: they look like continued list items. The result does not depend on how the text
    is cut into pieces.
    """

    def __init__(self) -> None:
        self._fence = ""  # character of the open fence
        self._fence_length = 0
        self._opening = False  # in the first line of a block
        self._closing = False  # in a line that ends the block, unless more than blanks follows
        self._span = 0  # number of backticks that opened the code span; 0: none
        self._line_begins = True
        self._run = ""  # character of the run of backticks or tildes at the end of the text
        self._run_length = 0

    @property
    def inside(self) -> bool:
        """Return whether what follows is code, given that it does not begin with a backtick or tilde."""
        self._end_run()
        return bool(self._fence or self._span)

    def feed(self, text: str) -> None:
        for token in _TOKEN.findall(text):
            if token[0] in "`~":
                self._add_to_run(token)
                continue
            self._end_run()
            if token == "\n":
                self._end_line()
            else:
                self._line_begins = self._line_begins and not token.strip(_BEFORE_FENCE)
                self._closing = self._closing and not token.strip()

    def _add_to_run(self, token: str) -> None:
        if self._run != token[0]:
            self._end_run()
            self._run = token[0]
        self._run_length += len(token)

    def _end_run(self) -> None:
        if not self._run:
            return
        char, length, at_begin = self._run, self._run_length, self._line_begins
        self._run, self._run_length, self._line_begins = "", 0, False
        if self._opening and char == self._fence == "`":  # not a block after all, but a span at the begin of a line
            self._fence, self._opening = "", False
            self._span = 0 if length == self._fence_length else self._fence_length
        elif self._fence:
            self._closing = at_begin and char == self._fence and length >= self._fence_length
        elif self._span:
            if char == "`" and length == self._span:
                self._span = 0
        elif at_begin and length >= _FENCE:
            self._fence, self._fence_length, self._opening = char, length, True
        elif char == "`":
            self._span = length

    def _end_line(self) -> None:
        if self._closing:
            self._fence = ""
        self._opening = self._closing = False
        self._span = 0
        self._line_begins = True
