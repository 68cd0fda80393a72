"""The condition of a server: whether it is ready for calls, and whether it should be restarted.

It is read from another thread than the event loop's, because a blocked event loop cannot answer.
"""

import time
from collections.abc import Callable, Sequence

STILL_SECONDS = 10.0


class Condition:
    """Of one process. Each property is a reason, or an empty string if there is none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.unready = "starting"
        self.stuck: Sequence[str] = ()  # queues whose jobs nobody takes
        self.replaced = False  # there is another process for its callers already
        self._clock = clock
        self._beat_time: float | None = None  # None before the first beat: the imports of a start take long

    def beat(self) -> None:
        """Say that the event loop turns. To be called every second."""
        self._beat_time = self._clock()

    @property
    def failing(self) -> str:
        still = 0.0 if self._beat_time is None else self._clock() - self._beat_time
        if still > STILL_SECONDS:
            return f"the event loop has stood still for {still:.0f} s"
        if self.stuck:
            return f"nobody takes the jobs of {', '.join(self.stuck)}"
        return ""
