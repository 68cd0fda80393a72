"""Gathering of deltas into fewer events while the process is busy."""

import asyncio
import time
from collections.abc import Callable

from ...llm.base import Delta, DeltaKind

_BUSY_SHARE = 0.7  # of one core


class Load:
    """Measures how much of one core the process uses, and how long deltas may be held back because of it."""

    gather_seconds = 0.04

    def __init__(self) -> None:
        self.busy = False
        self._wall = time.monotonic()
        self._cpu = time.process_time()

    def measure(self) -> None:
        """Take the load since the last call. To be called a few times a second."""
        wall, cpu = time.monotonic(), time.process_time()
        self.busy = cpu - self._cpu > _BUSY_SHARE * (wall - self._wall)
        self._wall, self._cpu = wall, cpu


class DeltaCoalescer:
    """Passes on the text of one piece of content: at once while the process is idle, gathered while it is busy.

    An event costs more than the token in it.
    """

    def __init__(self, load: Load, send: Callable[[DeltaKind, str, int], None]) -> None:
        self._load = load
        self._send = send  # kind, text and number of tokens
        self._kind: DeltaKind = "text"
        self._texts: list[str] = []
        self._tokens = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, delta: Delta, *, at_once: bool) -> None:
        self._kind = delta.kind
        self._texts.append(delta.text)
        self._tokens += delta.tokens
        if at_once or not self._load.busy:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._load.gather_seconds, self.flush)

    def flush(self) -> None:
        """Pass on what was held back."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._texts:
            text, tokens = "".join(self._texts), self._tokens
            self._texts.clear()
            self._tokens = 0
            self._send(self._kind, text, tokens)
