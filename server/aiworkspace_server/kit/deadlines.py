"""One deadline for many tasks, at the cost of a dictionary entry each."""

import asyncio
from types import TracebackType
from typing import Any


class Deadlines:
    """Cancels tasks after the same time. `asyncio.timeout` would set and cancel a timer for each of them."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._ends: dict[asyncio.Task[Any], float] = {}  # in the order of time
        self._expired: dict[asyncio.Task[Any], int] = {}  # how often each had been cancelled before
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        """Start the clock for the current task, which must not be inside already."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task
        self._ends[task] = end = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_at(end, self._expire)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raise TimeoutError if the time was over, unless the task was cancelled as well."""
        task = asyncio.current_task()
        assert task
        self._ends.pop(task, None)
        if task not in self._expired:
            return
        if task.uncancel() <= self._expired.pop(task) and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        now, self._timer = loop.time(), None
        for task, end in list(self._ends.items()):
            if end > now:
                self._timer = loop.call_at(end, self._expire)
                return
            del self._ends[task]
            self._expired[task] = task.cancelling()
            task.cancel()
