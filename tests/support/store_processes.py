"""Databases that can be stopped, killed and started again."""

import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from pathlib import Path

from aiworkspace_server.kit.embedded import embedded_mongo, embedded_postgres, embedded_redis

Open = Callable[[Path], AbstractAsyncContextManager[str]]


class Store:
    """One embedded database, which keeps its URL and its data over its starts."""

    def __init__(self, name: str, data_dir: Path, open_: Open) -> None:
        self.name = name
        self.url = ""
        self._data_dir = data_dir
        self._open = open_
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        self.url = await self._stack.enter_async_context(self._open(self._data_dir))

    async def restart(self) -> None:
        await self._stack.aclose()
        await self.start()

    def pause(self) -> None:
        """Nobody of it does anything until `go_on`; connections stay open."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    async def close(self) -> None:
        self.go_on()
        await self._stack.aclose()

    def _send(self, number: signal.Signals) -> None:
        """To its first process, whose id is in the lock file, and to all those that this one made."""
        first = int((self._data_dir / self.name / "process.lock").read_text())
        for process in (first, *_children(first)):
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue


def stores(data_dir: Path, *, revived: bool = False) -> tuple[Store, Store, Store]:
    """PostgreSQL, MongoDB and Redis, not yet started. `revived`: again when they end by themselves, as in a server."""
    return (
        Store("postgres", data_dir, partial(embedded_postgres, revived=revived)),
        Store("mongo", data_dir, partial(embedded_mongo, revived=revived)),
        Store("redis", data_dir, partial(embedded_redis, revived=revived)),
    )


def _children(parent: int) -> list[int]:
    listed = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(number) for number in listed.read_text().split()] if listed.exists() else []
