"""The timeouts of an answer: connecting, first content, between contents."""

import asyncio
from dataclasses import dataclass
from types import TracebackType

from .base import ErrorKind, ProviderError


@dataclass(frozen=True, slots=True)
class Clocks:
    """Timeouts of a provider. The caller bounds the whole answer."""

    connect_seconds: float
    first_content_seconds: float  # from the request, connecting included
    idle_seconds: float  # between two contents; pings and comments do not count
    last_seconds: float = 5.0  # for what may follow a complete answer: its usage and the end mark
    error_seconds: float = 2.0  # for the body of an error status, whose beginning is enough


@dataclass(slots=True)
class LocalClocks:
    """How long to wait for a local server's list of models, and how long to believe the last answer."""

    fresh_seconds: float = 60.0  # until a list is asked for again
    # Until a failed list is asked for again: neither names that do not exist nor a server that is down become a
    # request for each caller.
    retry_seconds: float = 1.0
    wait_seconds: float = 0.7  # for a new list, by who wants to see it
    look_seconds: float = 2.0  # for a sign of life, before a request is sent
    alive_seconds: float = 10.0  # after which a server that said nothing is looked at before it is asked


class ContentClock:
    """Raises ProviderError if a provider sends no content in time. Wrap every wait for it in `with clock:`.

    Time between the waits does not count, so that slow readers do not cause timeouts.

    asyncio.timeout would set and clear a timer at each read, a quarter of the cost of a token. Here a single timer is
    set again only if it fires too early.
    """

    __slots__ = ("_cancelling", "_deadline", "_idle", "_left", "_limit", "_loop", "_rang", "_timer", "_waiting")

    def __init__(self, clocks: Clocks) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle = clocks.idle_seconds
        self._limit = clocks.first_content_seconds
        self._left = self._loop.time()  # when the last wait ended
        self._deadline = self._left + self._limit
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._rang = False

    def content(self) -> None:
        """Report that the wait that just ended brought content."""
        self._restart(self._idle)

    def last(self, seconds: float) -> None:
        """Report that the answer is complete: from now on wait at most this long, for its usage."""
        self._idle = min(self._idle, seconds)
        self._restart(self._idle)

    def _restart(self, limit: float) -> None:
        self._limit = limit
        self._deadline = self._left + limit
        if self._timer is not None and self._timer.when() > self._deadline:  # it was set for the first content
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "only a task can wait"
        self._cancelling = task.cancelling()
        self._waiting = task
        self._deadline += self._loop.time() - self._left
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._ring)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._waiting = self._waiting, None
        self._left = self._loop.time()
        # As in asyncio.timeout: a cancellation from elsewhere takes precedence.
        if self._rang and task is not None and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ProviderError(ErrorKind.TIMEOUT, f"no content for {self._limit:g} s") from None

    def _ring(self) -> None:
        self._timer = None
        if self._waiting is None:
            return  # the next wait sets it again
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._ring)
        else:
            self._rang = True
            self._waiting.cancel()
