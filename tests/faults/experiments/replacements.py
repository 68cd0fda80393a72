"""Workers that are replaced again and again, under load."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random

from tests.support.tcp import free_port
from tests.support.waiting import until

from ..load import load
from ..site import Site
from ..trial import Trial, trial
from ..verdict import Figures, figures

_WORKERS = 2
_SECONDS, _EVERY_SECONDS = 120.0, 5.0
_RECOVERY_SECONDS = 15.0
_PATIENCE_SECONDS = 120.0
_LEASES = "SELECT count(*) FROM servers"
_numbers = count(1)


async def replace(site: Site, chance: Random, seconds: float = _SECONDS) -> Figures:
    directory = site.directory / f"replaced{next(_numbers)}"
    directory.mkdir()
    values = {"redis_url": site.redis.url, "ops_port": free_port(), "tmpdir": directory, "log_level": "info"}
    async with trial(site, values, "--workers", str(_WORKERS)) as at:
        before = set(at.server.workers)
        async with load(at) as working:
            await working.begun()
            await asyncio.sleep(chance.random())
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                at.server.send(signal.SIGUSR1)
                await asyncio.sleep(_EVERY_SECONDS)
            at.fault()
            await working.settled()
        await _nothing_left(at, before, directory)
        return await figures(at, died=True, most_seconds=_RECOVERY_SECONDS)


async def _nothing_left(at: Trial, before: set[int], directory: Path) -> None:
    """Note what replaced workers left behind when the last replacement has ended."""
    replaced: list[int] = []

    async def quiet() -> bool:
        replaced.append(_count(at, "worker_replaced"))
        await asyncio.sleep(_EVERY_SECONDS)
        return len(at.server.workers) == _WORKERS and replaced[-1] == _count(at, "worker_replaced")

    await until(quiet, _PATIENCE_SECONDS)
    if before & set(at.server.workers) or replaced[-1] < _WORKERS:
        at.wrong.append(f"{replaced[-1]} workers were replaced, {before & set(at.server.workers)} never")
    if _count(at, "worker_not_replaced") or _count(at, "worker_died") or _count(at, "worker_hung"):
        at.wrong.append("the log has workers that died, hung or had no successor")
    ((leases,),) = await at.site.rows(_LEASES)
    sessions = _sessions(f"TMPDIR={directory}".encode()) - {os.getsid(at.server.pid)}
    for what, found in (("sessions", len(sessions)), ("files of metrics", _live_files(directory)), ("leases", leases)):
        if found != _WORKERS:
            at.wrong.append(f"{_WORKERS} workers have {found} {what}")


def _count(at: Trial, event: str) -> int:
    return at.server.log.read_text().count(f'"{event}"')


def _sessions(variable: bytes) -> set[int]:
    """The sessions of processes with this in their environment: each worker has one, with all that it starts."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if variable in (path / "environ").read_bytes().split(b"\0"):
                found.add(os.getsid(int(path.name)))
    return found


def _live_files(directory: Path) -> int:
    """How many processes have files for what is true as long as they live. Counters stay, also of those that ended."""
    files = directory.glob("aiworkspace-metrics-*/gauge_live*.db")
    return len({path.stem.rpartition("_")[2] for path in files})


EXPERIMENTS = {"workers replaced every 5 s for two minutes": replace}
