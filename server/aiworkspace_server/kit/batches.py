"""Work that is cheaper together: what is asked for while a batch is in progress makes up the next one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from .tasks import Tasks

_PATIENCE_SECONDS = 0.25

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Does one kind of work for many callers at once. A caller who is alone does not wait for others.

    `work` takes the items of a batch and returns the result of each, in order. If it fails, the items are worked on one
    by one, so that each caller gets a failure of their own only: it must be safe to repeat. A batch that takes long
    holds up nobody either: the next one begins beside it.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        most: int,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """`most`: items of one batch."""
        self._work = work
        self._most = most
        self._patience_seconds = patience_seconds
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._current: asyncio.Task[None] | None = None  # the next batch begins after this one
        self._tasks = Tasks()

    async def do(self, item: Item) -> Result:
        """Have an item worked on. The work goes on if the caller is cancelled meanwhile."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._current is None:
            self._begin()
        return await future

    def _begin(self) -> None:
        self._current = self._tasks.spawn(self._run_next())

    async def _run_next(self) -> None:
        current = self._current
        batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        timer = asyncio.get_running_loop().call_later(self._patience_seconds, self._go_on, current)
        try:
            await self._run(batch)
        finally:
            timer.cancel()
            self._go_on(current)

    def _go_on(self, ended: asyncio.Task[None] | None) -> None:
        """Begin the next batch, unless it was begun when this one had taken too long."""
        if self._current is ended:
            self._current = None
            if self._waiting:
                self._begin()

    async def _run(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._work([item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1:
                for each in batch:
                    self._tasks.spawn(self._run([each]))
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
