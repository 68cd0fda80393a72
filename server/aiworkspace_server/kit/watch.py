"""Ends long calls when their caller loses the permission for them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from .errors import AppError
from .stores import STORE_UNAVAILABLE

log = structlog.get_logger("watch")

Check = Callable[[], Awaitable[None]]


@dataclass(eq=False, slots=True)
class _Group:
    """Calls that need the same permission, so that the check of one of them holds for all."""

    checks: dict[asyncio.Task[Any], Check] = field(default_factory=dict)
    refusal: AppError | None = None
    watcher: asyncio.Task[None] | None = None


class Watches:
    """Repeats the checks of calls every few seconds, one for all calls with the same key."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._groups: dict[Hashable, _Group] = {}

    @asynccontextmanager
    async def watching(self, key: Hashable, check: Check) -> AsyncIterator[None]:
        """Cancel the body of the context when a check with this key raises an AppError, and raise that error.

        If the store is unavailable, calls continue until a check succeeds in reading it.
        """
        task = asyncio.current_task()
        assert task
        group = self._groups.get(key) or self._begin(key)
        group.checks[task] = check
        try:
            yield
        except asyncio.CancelledError:
            # As asyncio.timeout does: becomes the refusal only if nothing else has cancelled the task as well.
            if group.refusal and task.uncancel() == 0:
                raise group.refusal from None
            raise
        finally:
            group.checks.pop(task, None)
            if not group.checks:
                self._end(key, group)

    def _begin(self, key: Hashable) -> _Group:
        group = self._groups[key] = _Group()
        group.watcher = asyncio.create_task(self._watch(key, group))
        return group

    def _end(self, key: Hashable, group: _Group) -> None:
        if self._groups.get(key) is group:
            del self._groups[key]
        if group.watcher:
            group.watcher.cancel()

    async def _watch(self, key: Hashable, group: _Group) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            if not group.checks:
                return
            try:
                await next(iter(group.checks.values()))()
            except AppError as error:
                group.refusal, group.watcher = error, None
                self._end(key, group)  # later calls are checked again
                for task in group.checks:
                    task.cancel()
                return
            except STORE_UNAVAILABLE:
                log.warning("database_unavailable", retry_in_seconds=self._seconds)
            except Exception:
                log.exception("check_failed", retry_in_seconds=self._seconds)  # the group needs its watcher
