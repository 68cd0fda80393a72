"""Tasks that outlive the call or the function that started them."""

import asyncio
from collections.abc import Collection, Coroutine
from contextvars import Context
from typing import Any, TypeVar

import structlog

from .context import current
from .errors import AppError

Result = TypeVar("Result")
log = structlog.get_logger("tasks")


_AGAIN_SECONDS = 1.0


async def cancel_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended.

    A single cancellation can be lost: a library may raise the error of a broken connection in its place, and
    `asyncio.wait_for` of Python 3.11 drops one that arrives together with the result. A loop would go on for ever.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_AGAIN_SECONDS)


class Tasks:
    """Keeps a reference to each task until it ends: the event loop alone would let it be garbage-collected."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def pending(self) -> frozenset[asyncio.Task[Any]]:
        """The tasks that have not ended."""
        return frozenset(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, Result], *, context: Context | None = None) -> asyncio.Task[Result]:
        """Start `work`, by default in the context of the current call, and log its failure."""
        task = asyncio.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._end)  # one for both things: each callback costs a turn of the loop
        return task

    async def complete(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run `work` to its end, even if the caller disconnects, and return its result.

        The audit log records the outcome of such work instead of the cancellation of its call.
        """
        task = self._start(work)
        call = current.get(None)
        if call and call.work is None:  # otherwise this is a part of that work
            call.work = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)  # its exception would be lost otherwise
            raise

    async def close(self, seconds: float = 0) -> None:
        """Wait at most `seconds` for the tasks, then cancel the others and wait until they have ended."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        await cancel_all(self.pending)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        _log_failure(task)

    def _start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _log_failure(task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error:
        name = getattr(task.get_coro(), "__qualname__", "")
        unexpected = not isinstance(error, AppError)
        log.error("task_failed", task=name, error=type(error).__name__, exc_info=error if unexpected else None)
