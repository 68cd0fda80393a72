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
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import structlog

from aiworkspace_server.kit.embedded.place import POLL_SECONDS, STOP_SECONDS, EmbeddedError, Place
from aiworkspace_server.kit.tasks import cancel_all

START_SECONDS = 60
_LOOK_SECONDS = 0.5
_REVIVE_SECONDS = 2.0

# The variables that a database inherits; others may hold secrets. LD_ locates libraries; libfaketime must show the same
# clock to the server and its databases.
_PASSED = {"HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TEMP", "TMP", "TMPDIR", "TZ", "TZDIR", "USER"}
_PASSED_PREFIXES = ("LC_", "LD_", "DYLD_", "FAKETIME")

Child = subprocess.Popen[bytes]
Start = Callable[[], AbstractAsyncContextManager[Child]]
Ready = Callable[[], Awaitable[bool]]

log = structlog.get_logger("databases")


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


async def until(place: Place, process: Child, ready: Ready) -> None:
    """Wait until `ready` returns True. Raises EmbeddedError with the end of the log if the child ends before."""
    deadline = time.monotonic() + START_SECONDS
    while not await ready():
        if process.poll() is not None:
            raise EmbeddedError(f"{place.path.name} did not start: {place.last_words()}")
        if time.monotonic() > deadline:
            raise EmbeddedError(f"{place.path.name} was not ready after {START_SECONDS} s; see {place.log}")
        await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def service(place: Place, start: Start, ready: Ready, *, revived: bool) -> AsyncIterator[None]:
    """Run a database until the block ends. `revived`: start it again whenever it ends by itself."""
    async with AsyncExitStack() as running:
        process = await running.enter_async_context(start())
        await until(place, process, ready)
        reviving = [asyncio.create_task(_revive(place, process, start, ready, running))] if revived else []
        try:
            yield
        finally:
            await cancel_all(reviving)  # before the process is stopped, which nothing may interrupt


async def _revive(place: Place, process: Child, start: Start, ready: Ready, running: AsyncExitStack) -> None:
    """Databases end when they lack disk space or memory. They may need several attempts, until there is some again."""
    while True:
        try:
            await _see_end(place, process)
            await running.aclose()
            process = await running.enter_async_context(start())
            await until(place, process, ready)
            log.warning("database_started_again", database=place.path.name)
        except (EmbeddedError, OSError) as error:  # OSError: there is no room even for its log
            log.warning("database_not_started", database=place.path.name, error=str(error))
        await asyncio.sleep(_REVIVE_SECONDS)


async def _see_end(place: Place, process: Child) -> None:
    """Wait as `ended` does, but without a thread, which no cancellation would end."""
    while True:
        if (code := process.poll()) is not None:
            # Only where its log is: a statement in there may quote what people wrote.
            log.warning("database_ended", database=place.path.name, code=code, log=str(place.log))
            return
        await asyncio.sleep(_LOOK_SECONDS)


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
