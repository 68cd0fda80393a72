"""Several worker processes on one port, started, watched and stopped by a supervisor that serves no calls itself.

Workers are spawned, because gRPC does not survive a fork. A worker's standard input is a socket to the supervisor:
through it the worker receives its configuration, which is in no argument or environment variable, reports that it is
ready again and again, and learns that the supervisor has died. A worker that stops reporting hangs. It is killed,
because the kernel would still assign it a share of the connections.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass

import structlog

from .databases import Databases

READY = b"ready\n"
_READY_SECONDS = 1.0  # between two reports of a worker
_SILENT_SECONDS = 8.0  # without a report, twice, until a worker counts as hung
_SHORT_LIFE_SECONDS = 10.0  # a worker that dies sooner is restarted after a pause
_FIRST_PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 0.5, 10.0
STOP_SECONDS = 15.0  # in addition to the time for runs in progress

log = structlog.get_logger("workers")


class WorkerFailedError(Exception):
    """A worker ended before it took calls. It has printed the reason."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a worker ended before it took calls, with exit code {code}")
        self.code = code if code > 0 else 1


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What the supervisor passes to a worker at its start."""

    number: int
    port: int
    databases: Databases

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> "WorkerConfig":
        fields = json.loads(line)
        return cls(fields["number"], fields["port"], Databases(**fields["databases"]))


class Supervisor:
    """Runs the workers, and restarts those that die."""

    def __init__(self, databases: Databases, port: int, count: int, shutdown_seconds: float) -> None:
        self._databases = databases
        self._port = port
        self._count = count
        self._stop_seconds = shutdown_seconds + STOP_SECONDS
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the workers, and stop them at the end.

        The first one starts alone, so that an error in the configuration is reported once.
        """
        keepers: list[asyncio.Task[None]] = []
        try:
            for numbers in (range(1, 2), range(2, self._count + 1)):
                ready = [asyncio.get_running_loop().create_future() for _ in numbers]
                keepers += [asyncio.create_task(self._keep(*each)) for each in zip(numbers, ready, strict=True)]
                await asyncio.gather(*ready)
            yield
        finally:
            self._stopping.set()
            self.send(signal.SIGTERM)
            if keepers:
                await asyncio.wait(keepers, timeout=self._stop_seconds)
            self.send(signal.SIGKILL)
            await asyncio.gather(*keepers, return_exceptions=True)

    def send(self, number: signal.Signals) -> None:
        """Send all workers a signal."""
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, number: int, ready: asyncio.Future[None]) -> None:
        """Restart one worker whenever it dies, until all stop."""
        pause = 0.0
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._live(number, ready)
            if not ready.done():
                return ready.set_exception(WorkerFailedError(code))
            if not self._stopping.is_set():
                long_life = time.monotonic() - began > _SHORT_LIFE_SECONDS
                pause = 0.0 if long_life else min(max(2 * pause, _FIRST_PAUSE_SECONDS), _MOST_PAUSE_SECONDS)
                log.error("worker_died", worker=number, exit_code=code, restart_in_seconds=pause)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause)

    async def _live(self, number: int, ready: asyncio.Future[None]) -> int:
        """Start a worker and wait for its end. Return its exit code."""
        here, there = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "aiworkspace_server", "worker"), stdin=there.fileno(), start_new_session=True
            )
        except OSError as error:
            log.error("worker_not_started", worker=number, error=str(error))
            here.close()
            return os.EX_OSERR
        finally:
            there.close()
        self._processes[number] = process
        reader, writer = await asyncio.open_connection(sock=here)
        try:
            if self._stopping.is_set():
                process.terminate()
            writer.write(WorkerConfig(number, self._port, self._databases).to_json())
            if await _falls_silent(reader, ready):
                log.error("worker_hung", worker=number)
                process.kill()
            return await process.wait()
        finally:
            del self._processes[number]
            writer.close()


async def _falls_silent(reader: asyncio.StreamReader, ready: asyncio.Future[None]) -> bool:
    """Read a worker's reports until they stop. Return whether it hangs or has ended. Its start may be slow."""
    try:
        said = await reader.readline()
        while said == READY:
            if not ready.done():
                ready.set_result(None)
            said = await _word(reader) or await _word(reader)
    except OSError:
        return False
    return not reader.at_eof()


async def _word(reader: asyncio.StreamReader) -> bytes:
    """Return the next report, or nothing after a timeout.

    The timeout may also expire because this process was stopped, so the caller tries twice.
    """
    try:
        return await asyncio.wait_for(reader.readline(), _SILENT_SECONDS)
    except TimeoutError:
        return b""


class Parent:
    """The worker's connection to the supervisor."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls) -> "Parent":
        return cls(*await asyncio.open_connection(sock=socket.socket(fileno=0)))

    async def read_config(self) -> WorkerConfig:
        return WorkerConfig.from_json(await self._reader.readline())

    async def say_ready(self) -> None:
        """Report forever that this worker takes calls. The reports stop if the event loop is stuck."""
        while True:
            self._writer.write(READY)
            await asyncio.sleep(_READY_SECONDS)

    async def gone(self) -> None:
        """Wait until the supervisor has died."""
        with suppress(OSError):
            await self._reader.read()
