"""Which attempt is heard in a run, and how the words of the next are joined to those of the last."""

import asyncio
from collections.abc import Sequence

from ..llm.base import Delta
from .asking import Asking
from .live import LiveRun
from .seam import Seam


class Voice:
    """Passes on what attempts say."""

    def __init__(self, live: LiveRun) -> None:
        self.spoken = asyncio.Event()  # whether one of those that race has given content
        self._live = live
        self._seam: Seam | None = None
        self._held_tokens = 0  # of what the seam holds back or has left out
        self._racing: list[Asking] = []

    def go_on(self) -> None:
        """The next attempt goes on with what was said, if anything was."""
        self._seam = Seam(said) if (said := self._live.text) else None

    def speak(self, asking: Asking, delta: Delta) -> None:
        if self._racing:
            self.win(asking)
        if asking.lost:
            return
        self._live.model = asking.target.model
        if self._seam is None or delta.kind != "text":
            self._live.say(delta)
        else:
            self._held_tokens += delta.tokens
            self._say_held(self._seam.feed(delta.text))

    def finish(self) -> None:
        """The attempt that went on has ended: nothing of it is held back any more."""
        seam, self._seam = self._seam, None
        if seam:
            self._say_held(seam.end())

    def _say_held(self, text: str) -> None:
        if text:
            tokens, self._held_tokens = self._held_tokens, 0
            self._live.say(Delta("text", text, tokens))

    def race(self, askings: Sequence[Asking]) -> None:
        """Of these attempts only the first that gives content is heard."""
        self._racing = list(askings)

    def win(self, asking: Asking) -> None:
        """Stops the others, before anything of this one is told."""
        racing, self._racing = self._racing, []
        self.spoken.set()
        for rival in racing:
            if rival is not asking and rival.state == "running":
                rival.lose()
                self._live.emit(attempt_failed={"attempt": rival.number, "model": rival.target.model})
