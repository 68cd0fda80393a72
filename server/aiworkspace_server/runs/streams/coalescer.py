"""Gathering of deltas into fewer events while the process is busy."""

import asyncio
import time
from collections.abc import Callable

from ...llm.base import Delta, DeltaKind

_BUSY_SHARE = 0.7  # of one core
_LEAST_SECONDS, _MOST_SECONDS = 0.04, 0.1


class Load:
    """Measures how much of one core the process uses, and so how long deltas may be held back."""

    def __init__(self) -> None:
        self.gather_seconds = 0.0  # 0: not at all
        self._wall = time.monotonic()
        self._cpu = time.process_time()

    def measure(self) -> None:
        """Take the load since the last call. To be called a few times a second."""
        wall, cpu = time.monotonic(), time.process_time()
        self.gather_seconds = gather_seconds((cpu - self._cpu) / (wall - self._wall))
        self._wall, self._cpu = wall, cpu


def gather_seconds(share: float) -> float:
    """Return how long deltas may be held back by a process that uses this share of a core: longer as it fills."""
    if share <= _BUSY_SHARE:
        return 0.0
    excess = min(1.0, (share - _BUSY_SHARE) / (1 - _BUSY_SHARE))
    return _LEAST_SECONDS + excess * (_MOST_SECONDS - _LEAST_SECONDS)


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
        if at_once or not self._load.gather_seconds:
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
