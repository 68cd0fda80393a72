"""Every call of an experiment: whether it was refused so that its caller may repeat it, and how long it was silent."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

CALL_SECONDS = 10.0  # the deadline of callers
GRACE_SECONDS = 5.0  # of a machine that has other work to do
# What an SDK repeats; the second is the caller's own deadline, and the third has the time after which to repeat it.
RETRYABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
}
_FROM_THE_START = grpc.StatusCode.OUT_OF_RANGE  # says where to go on reading, and is no failure


class Calls:
    def __init__(self) -> None:
        self.count = 0
        self.refused = 0
        self.failed: list[str] = []  # otherwise
        self.hang = 0.0  # the longest time without an answer, or without the next event of a stream
        self.trouble_time = 0.0  # when the last one was refused or failed

    @contextmanager
    def call(self, name: str) -> Iterator[Callable[[], None]]:
        """Count a call. Yield what notes that something was heard of it."""
        self.count += 1
        begin = time.monotonic()

        def heard() -> None:
            nonlocal begin
            now = time.monotonic()
            self.hang = max(self.hang, now - begin)
            begin = now

        try:
            yield heard
        except grpc.aio.AioRpcError as error:
            heard()
            self._note(name, error)
            raise
        heard()

    def _note(self, name: str, error: grpc.aio.AioRpcError) -> None:
        if error.code() == _FROM_THE_START:
            return
        self.trouble_time = time.monotonic()
        if error.code() in RETRYABLE:
            self.refused += 1
        else:
            self.failed.append(f"{name} failed with {error.code().name}: {error.details()}")
