"""Child processes that run a module of the server, and speak with it over pipes.

uvloop starts a process by fork, which copies the page tables of the server while its event loop waits: 26 ms for 600
MB. `subprocess` uses vfork, which takes a millisecond.
"""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import IO

_READ_AHEAD = 1 << 20  # bytes


class Child:
    """A process in a session of its own: Ctrl-C is for the server alone."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._transports: list[asyncio.BaseTransport] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    async def stdout(self) -> asyncio.StreamReader:
        return await self._reader(self._process.stdout)

    async def stderr(self) -> asyncio.StreamReader:
        return await self._reader(self._process.stderr)

    async def _reader(self, pipe: IO[bytes] | None) -> asyncio.StreamReader:
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(_READ_AHEAD)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        self._transports.append(transport)
        return reader

    async def connect(self, end: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the streams of a socket whose other end the process has."""
        reader, writer = await asyncio.open_connection(sock=end, limit=_READ_AHEAD)
        self._transports.append(writer.transport)
        return reader, writer

    def kill(self) -> None:
        self._process.kill()

    async def wait(self) -> int:
        """Return the exit code when the process has ended. That of a signal is negative."""
        return await asyncio.to_thread(self._process.wait)

    def close(self) -> None:
        """Close the server's ends of pipes and sockets."""
        for transport in self._transports:
            transport.close()


def start(
    module: str,
    *arguments: str,
    env: Mapping[str, str],
    stdin: int | IO[bytes],
    stdout: int,
    stderr: int,
    cwd: str | None = None,
) -> Child:
    """Start a module with this server's Python, isolated from its environment."""
    command = [sys.executable, "-I", "-X", "utf8", "-m", module, *arguments]
    process = subprocess.Popen(
        command, env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
    )
    return Child(process)
