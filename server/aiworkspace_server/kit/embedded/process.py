"""A database as a child process that does not outlive its server.

When the server is killed, the kernel sends the child its stop signal (PR_SET_PDEATHSIG). setpriv requests that, because
our own code between fork and exec would be unsafe with threads. Without setpriv, the child runs until the next start,
which ends it (see place.py).
"""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiworkspace_server.kit.embedded.place import POLL_SECONDS, STOP_SECONDS, EmbeddedError, Place

START_SECONDS = 60

# The variables that a database inherits; others may hold secrets. LD_ locates libraries; libfaketime must show the same
# clock to the server and its databases.
_PASSED = {"HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TEMP", "TMP", "TMPDIR", "TZ", "TZDIR", "USER"}
_PASSED_PREFIXES = ("LC_", "LD_", "DYLD_", "FAKETIME")

Child = subprocess.Popen[bytes]


@asynccontextmanager
async def child(
    place: Place,
    command: Sequence[str],
    *,
    directory: Path,
    privileges: Sequence[str] = (),
    stop_seconds: float = STOP_SECONDS,
) -> AsyncIterator[Child]:
    """Run `command` in `directory` until the block ends; `privileges` are options for setpriv.

    A child that ignores its stop signal for `stop_seconds` is killed.

    Must be entered on the main thread: for the kernel, the end of the forking thread is the death of the parent.
    """
    process = _spawn(place, [*_wrapper(place, privileges), *command], directory)
    try:
        os.pwrite(place.lock, b"%-20d" % process.pid, 0)
        yield process
    finally:
        await _stop(place, process, stop_seconds)


async def until(place: Place, process: Child, ready: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `ready` returns True. Raises EmbeddedError with the end of the log if the child ends before."""
    deadline = time.monotonic() + START_SECONDS
    while not await ready():
        if process.poll() is not None:
            raise EmbeddedError(f"{place.path.name} did not start: {place.last_words()}")
        if time.monotonic() > deadline:
            raise EmbeddedError(f"{place.path.name} was not ready after {START_SECONDS} s; see {place.log}")
        await asyncio.sleep(POLL_SECONDS)


async def ended(process: Child) -> int:
    """Wait for the exit code, in a thread: event loops differ in how they watch children."""
    return await asyncio.to_thread(process.wait)


def _wrapper(place: Place, privileges: Sequence[str]) -> list[str]:
    if sys.platform == "linux" and (setpriv := shutil.which("setpriv")):
        return [setpriv, f"--pdeathsig={place.stop.name.removeprefix('SIG')}", *privileges, "--"]
    if privileges:
        raise EmbeddedError("PostgreSQL refuses to be root, and setpriv (util-linux) is missing: run as another user")
    return []


def _spawn(place: Place, command: list[str], directory: Path) -> Child:
    """Start the child in its own session: Ctrl-C reaches only the server, which stops its databases last."""
    with suppress(FileNotFoundError):
        place.log.replace(place.path / "log.previous")
    with open(os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as log:
        return subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(place.lock,),
            env=_environment(),
            umask=0o077,
        )


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)}


async def _stop(place: Place, process: Child, seconds: float) -> None:
    if process.poll() is None:
        process.send_signal(place.stop)
    try:
        await asyncio.to_thread(process.wait, seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        await ended(process)
