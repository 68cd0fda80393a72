"""Selects the attempt whose output is streamed, and joins a continued answer to the text before it."""

import asyncio
from collections.abc import Sequence

from ...llm.base import Cited, Delta
from ..citations.cited import CitedAnswer
from ..models import RunState
from ..streams.local import LocalRun
from .attempt import Attempt

_SHORTEST_OVERLAP = 12  # characters: a shorter repetition may be chance, and stays


class OutputSelector:
    """Passes the output of one attempt at a time on to the run."""

    def __init__(self, run: LocalRun, cited: CitedAnswer | None) -> None:
        """`cited`: takes the text instead of the run, if the run has sources."""
        self.selected = asyncio.Event()  # one of the racing attempts has sent content
        self._run = run
        self._cited = cited
        self._trimmer: OverlapTrimmer | None = None
        self._held_tokens = 0  # of what the trimmer holds back or has dropped
        self._racing: list[Attempt] = []

    def continue_answer(self) -> None:
        """Join the output of the next attempt to what was said so far, if anything was."""
        text = self.text
        self._trimmer = OverlapTrimmer(text) if text else None

    @property
    def text(self) -> str:
        """What was said so far, as models write it."""
        return self._cited.text_with_markers if self._cited else self._run.text

    def send(self, attempt: Attempt, delta: Delta) -> None:
        if self._racing:
            self.select(attempt)
        if attempt.lost:
            return
        if delta.kind != "text" or (self._trimmer is None and self._cited is None):
            self._run.say(attempt.target.model, delta)
        elif self._trimmer is None:
            self._say(attempt, delta)
        else:
            self._held_tokens += delta.tokens
            self._say_new(attempt, self._trimmer.feed(delta.text))

    def cite(self, attempt: Attempt, cited: Cited) -> None:
        """Take a citation of what the attempt has said. One of a repetition is not sent again."""
        if self._cited and not attempt.lost and not (self._trimmer and self._trimmer.undecided):
            self._cited.cite(attempt, cited)

    def finish(self, attempt: Attempt) -> None:
        """Send what is held back of an attempt that has ended."""
        trimmer, self._trimmer = self._trimmer, None
        if trimmer:
            self._say_new(attempt, trimmer.end())
        if self._cited:
            self._cited.end_attempt(attempt)

    def _say_new(self, attempt: Attempt, text: str) -> None:
        if text:
            tokens, self._held_tokens = self._held_tokens, 0
            self._say(attempt, Delta("text", text, tokens))

    def _say(self, attempt: Attempt, delta: Delta) -> None:
        if self._cited:
            self._cited.say(attempt, delta)
        else:
            self._run.say(attempt.target.model, delta)

    def race(self, attempts: Sequence[Attempt]) -> None:
        """Stream only the first of these attempts that sends content."""
        self._racing = list(attempts)

    def select(self, attempt: Attempt) -> None:
        """Stop the other racing attempts, before any output of this one is sent."""
        racing, self._racing = self._racing, []
        self.selected.set()
        for rival in racing:
            if rival is not attempt and rival.state == RunState.RUNNING:
                rival.lose()
                self._run.emit(attempt_failed={"attempt": rival.number, "model": rival.target.model})


class OverlapTrimmer:
    """Joins a continued answer to the text before it, dropping the overlap.

    Models often begin with the last words again, or with the whole answer. Such a beginning is held back as long as it
    may still become a repetition, that is, while a longer end of the earlier text begins with it.
    """

    def __init__(self, said: str) -> None:
        self._said = said
        self._held = ""
        self._undecided = len(said) >= _SHORTEST_OVERLAP

    @property
    def undecided(self) -> bool:
        """Whether all of the output so far may still be a repetition."""
        return self._undecided

    def feed(self, text: str) -> str:
        """Take the next part of the output and return what is new in it."""
        if not self._undecided:
            return text
        self._held += text
        return "" if self._may_repeat() else self.end()

    def end(self) -> str:
        """Return what is held back, without the part that repeats the earlier text."""
        self._undecided = False
        held, self._held = self._held, ""
        return held[_overlap(self._said, held) :] if held else ""

    def _may_repeat(self) -> bool:
        last_start = len(self._said) - max(_SHORTEST_OVERLAP, len(self._held) + 1)
        return last_start >= 0 and self._said.find(self._held, 0, last_start + len(self._held)) >= 0


def _overlap(said: str, text: str) -> int:
    """Return the length of the longest prefix of `text` with which `said` ends; 0 if it is too short to count.

    Uses the prefix function of Knuth, Morris and Pratt, since an answer may be long and consist of one letter.
    """
    tail = said[-len(text) :]
    borders = [0] * len(text)
    matched = 0
    for at in range(1, len(text)):
        matched = _extend(text, borders, matched, text[at])
        borders[at] = matched
    matched = 0
    for letter in tail:
        matched = _extend(text, borders, matched, letter)
    return matched if matched >= _SHORTEST_OVERLAP else 0


def _extend(text: str, borders: list[int], matched: int, letter: str) -> int:
    """Return how much of the beginning of `text` is matched after one more letter."""
    if matched == len(text):
        matched = borders[-1]
    while matched and text[matched] != letter:
        matched = borders[matched - 1]
    return matched + 1 if text[matched] == letter else 0
