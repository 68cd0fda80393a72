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
from pathlib import Path

import structlog

from .databases import Databases
from .kit.condition import STILL_SECONDS, Condition
from .kit.metrics import forget_process
from .kit.tasks import cancel_all

READY = b"ready"
_READY_SECONDS = 1.0  # between two reports of a worker
_SILENT_SECONDS = 8.0  # without a report, twice, until a worker counts as hung
_SHORT_LIFE_SECONDS = 10.0  # a worker that dies sooner is restarted after a pause
_FIRST_PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 0.5, 10.0
RETIRE = signal.SIGUSR1  # to a worker that has a successor
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
    metrics: str | None  # directory of their files

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> "WorkerConfig":
        fields = json.loads(line)
        return cls(**fields | {"databases": Databases(**fields["databases"])})


@dataclass(slots=True)
class _Worker:
    """A worker and its successors after crashes, until it is retired."""

    number: int
    ready: asyncio.Future[None]
    retired: asyncio.Event
    process: asyncio.subprocess.Process | None = None
    report_time: float | None = None  # of the last report; None before the first
    stuck: str = ""  # queues whose jobs it does not take

    @property
    def failing(self) -> str:
        """The reason to restart this worker, or an empty string."""
        silent = 0.0 if self.report_time is None else time.monotonic() - self.report_time
        if silent > STILL_SECONDS:
            return f"the event loop of worker {self.number} has stood still for {silent:.0f} s"
        return f"worker {self.number} takes no jobs of {self.stuck}" if self.stuck else ""


class Supervisor:
    """Runs the workers, and restarts those that die."""

    def __init__(
        self, databases: Databases, port: int, count: int, stop_seconds: float, metrics: Path | None = None
    ) -> None:
        """`stop_seconds`: how long a worker may take to let runs finish."""
        self.condition = Condition()
        self._databases = databases
        self._port = port
        self._count = count
        self._stop_seconds = stop_seconds + STOP_SECONDS
        self._metrics = metrics
        self._workers: dict[int, _Worker] = {}
        self._keepers: dict[int, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self._replacing: asyncio.Task[None] | None = None
        self._replace_again = False

    @property
    def failing(self) -> str:
        """The reason to restart the server, or an empty string."""
        reasons = [self.condition.failing, *(worker.failing for worker in list(self._workers.values()))]
        return next(filter(None, reasons), "")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the workers, and stop them at the end.

        The first one starts alone, so that an error in the configuration is reported once.
        """
        beating = asyncio.create_task(self._beat())
        try:
            for numbers in (range(1, 2), range(2, self._count + 1)):
                await asyncio.gather(*(self._begin(number).ready for number in numbers))
            self.condition.unready = ""
            yield
        finally:
            self.condition.unready = "stopping"
            self._stopping.set()
            if self._replacing:
                await cancel_all([self._replacing])
            self.send(signal.SIGTERM)
            keepers = list(self._keepers.values())
            if keepers:
                await asyncio.wait(keepers, timeout=self._stop_seconds)
            self.send(signal.SIGKILL)
            await asyncio.gather(*keepers, return_exceptions=True)
            beating.cancel()

    def send(self, number: signal.Signals) -> None:
        """Send all workers a signal."""
        for worker in self._workers.values():
            _send(worker, number)

    def replace(self) -> None:
        """Replace the workers one after another, each when its successor is ready; once more if that is going on."""
        if self._stopping.is_set():
            return
        if self._replacing and not self._replacing.done():
            self._replace_again = True
            return
        self._replacing = asyncio.create_task(self._replace_all())

    async def _replace_all(self) -> None:
        for old in list(self._workers.values()):
            number = old.number + self._count if old.number <= self._count else old.number - self._count
            try:
                await self._begin(number).ready
            except WorkerFailedError as error:
                log.error("worker_not_replaced", worker=old.number, exit_code=error.code)
                break
            old.retired.set()
            _send(old, RETIRE)
            await asyncio.wait([self._keepers[old.number]], timeout=self._stop_seconds)
            _send(old, signal.SIGKILL)
            await self._keepers.pop(old.number)
            log.info("worker_replaced", worker=old.number, by=number)
        if self._replace_again:
            self._replace_again = False
            await self._replace_all()

    def _begin(self, number: int) -> _Worker:
        worker = _Worker(number, asyncio.get_running_loop().create_future(), asyncio.Event())
        self._workers[number] = worker
        self._keepers[number] = asyncio.create_task(self._keep(worker))
        return worker

    async def _beat(self) -> None:
        while True:
            self.condition.beat()
            await asyncio.sleep(_READY_SECONDS)

    async def _keep(self, worker: _Worker) -> None:
        """Restart a worker whenever it dies, until it is retired or all stop."""
        pause = 0.0
        while not self._stopping.is_set() and not worker.retired.is_set():
            began = time.monotonic()
            code = await self._live(worker)
            if not worker.ready.done():
                del self._workers[worker.number]
                return worker.ready.set_exception(WorkerFailedError(code))
            if not self._stopping.is_set() and not worker.retired.is_set():
                long_life = time.monotonic() - began > _SHORT_LIFE_SECONDS
                pause = 0.0 if long_life else min(max(2 * pause, _FIRST_PAUSE_SECONDS), _MOST_PAUSE_SECONDS)
                log.error("worker_died", worker=worker.number, exit_code=code, restart_in_seconds=pause)
                await self._wait(worker, pause)
        del self._workers[worker.number]

    async def _wait(self, worker: _Worker, seconds: float) -> None:
        """Wait until the worker is retired or all stop, or for so long."""
        ends = [asyncio.create_task(event.wait()) for event in (self._stopping, worker.retired)]
        await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        await cancel_all(ends)

    async def _live(self, worker: _Worker) -> int:
        """Start a worker and wait for its end. Return its exit code."""
        here, there = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "aiworkspace_server", "worker"), stdin=there.fileno(), start_new_session=True
            )
        except OSError as error:
            log.error("worker_not_started", worker=worker.number, error=str(error))
            here.close()
            return os.EX_OSERR
        finally:
            there.close()
        worker.process = process
        reader, writer = await asyncio.open_connection(sock=here)
        try:
            if self._stopping.is_set():
                process.terminate()
            metrics = str(self._metrics) if self._metrics else None
            writer.write(WorkerConfig(worker.number, self._port, self._databases, metrics).to_json())
            if await _falls_silent(reader, worker):
                log.error("worker_hung", worker=worker.number)
                process.kill()
            return await process.wait()
        finally:
            worker.process = worker.report_time = None
            writer.close()
            if self._metrics:
                forget_process(self._metrics, worker.number)


def _send(worker: _Worker, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        if worker.process:
            worker.process.send_signal(number)


async def _falls_silent(reader: asyncio.StreamReader, worker: _Worker) -> bool:
    """Read a worker's reports until they stop. Return whether it hangs or has ended. Its start may be slow."""
    try:
        said = await reader.readline()
        while said.startswith(READY):
            worker.report_time, worker.stuck = time.monotonic(), said.removeprefix(READY).decode().strip()
            if not worker.ready.done():
                worker.ready.set_result(None)
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

    async def say_ready(self, condition: Condition) -> None:
        """Report forever that this worker takes calls. The reports stop if the event loop is stuck."""
        while True:
            self._writer.write(b" ".join([READY, ",".join(condition.stuck).encode()]) + b"\n")
            await asyncio.sleep(_READY_SECONDS)

    async def gone(self) -> None:
        """Wait until the supervisor has died."""
        with suppress(OSError):
            await self._reader.read()
