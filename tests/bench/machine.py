"""The machine: which core is whose, and what was done with it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cores:
    """`server` is the one core of the server under test; the load generator and all others have `load`."""

    server: int
    load: frozenset[int]

    @contextmanager
    def as_server(self) -> Iterator[None]:
        """Processes that are started inside run on the server's core."""
        os.sched_setaffinity(0, {self.server})
        try:
            yield
        finally:
            os.sched_setaffinity(0, self.load)


def take_cores() -> Cores:
    """Pins this process to the load's cores. Raises RuntimeError on a machine with a single one."""
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise RuntimeError("two cores are needed: one for the server, one for the load")
    cores = Cores(first, frozenset(others))
    os.sched_setaffinity(0, cores.load)
    return cores


@dataclass(frozen=True, slots=True)
class Times:
    """A moment: the wall clock, the CPU time of a process, and what the cores were busy with, in seconds."""

    wall: float
    process: float
    server_core: float
    load_cores: float

    @classmethod
    def now(cls, pid: int, cores: Cores) -> "Times":
        busy = _busy_seconds()
        return cls(time.monotonic(), _cpu_seconds(pid), busy[cores.server], sum(busy[core] for core in cores.load))


@dataclass(frozen=True, slots=True)
class Spent:
    """What a while took."""

    seconds: float
    cpu_seconds: float  # of the server's process
    foreign_share: float  # of the server's core: what processes other than the server took
    load_share: float  # of the load's cores: how busy they were

    @classmethod
    def between(cls, start: Times, end: Times, cores: Cores) -> "Spent":
        seconds = end.wall - start.wall
        cpu = end.process - start.process
        foreign = (end.server_core - start.server_core - cpu) / seconds
        load = (end.load_cores - start.load_cores) / seconds / len(cores.load)
        return cls(seconds, cpu, max(0.0, foreign), min(1.0, load))


def cpu_seconds_of(program: str, pid: int | None = None) -> float:
    """What processes of a program have taken that are alive and were started by this one, or by those it started."""
    total = 0.0
    for child in _children(pid or os.getpid()):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            if Path(f"/proc/{child}/comm").read_text().strip() == program:
                total += _own_seconds(child)
            total += cpu_seconds_of(program, child)
    return total


def _cpu_seconds(pid: int) -> float:
    """User and system time of all threads, and of the processes that it started and that are alive."""
    return _own_seconds(pid) + sum(_cpu_seconds(child) for child in _children(pid))


def _own_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def resident_bytes(pid: int) -> int:
    """Return the memory that a process has, without that of the processes that it started."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _busy_seconds() -> dict[int, float]:
    """By core. What another machine took of it (steal) counts as busy: it was not there for us."""
    busy = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *counts = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, counts[:8])
            busy[int(name[3:])] = (user + nice + system + irq + softirq + steal) / _TICKS_PER_SECOND
    return busy
