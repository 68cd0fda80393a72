"""The directory of one embedded database, and locks so that only one server and one database use it.

This process holds `server.lock`. The database and its children inherit `process.lock`, so that it is released exactly
when the last of them has ended, however their server ended. Process ids in files are less reliable: they are wrong
after a reboot or in a new container.
"""

import asyncio
import fcntl
import hashlib
import os
import re
import signal
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

STOP_SECONDS = 10
POLL_SECONDS = 0.01

# The longest socket path is 107 bytes on Linux and 103 on macOS, and PostgreSQL reads a comma as a list.
_PLAIN = re.compile(r"[\w./+-]{1,80}", re.ASCII)


class EmbeddedError(Exception):
    """An embedded database cannot run; the text says why and what to do."""


class InUseError(EmbeddedError):
    """A running server has the embedded databases."""


@dataclass(frozen=True)
class Place:
    """A claimed directory. `lock` is the descriptor of process.lock, `stop` the database's signal for a clean stop."""

    path: Path
    lock: int
    stop: signal.Signals

    @property
    def log(self) -> Path:
        return self.path / "log"

    def last_words(self) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""  # there may be no room for one
        return " / ".join(text.splitlines()[-3:])[-1000:] or "its log is empty"

    @contextmanager
    def sockets(self) -> Iterator[Path]:
        """Yield the directory of the socket: in this place or, if that path is too long, in the temporary directory.

        A temporary one has the same name at every start, so that crashes leave only one directory behind.
        """
        path = _sockets_of(self.path)
        yield _private(path)
        with suppress(OSError):
            path.rmdir()


@asynccontextmanager
async def claim(data_dir: Path, name: str, *, stop: signal.Signals) -> AsyncIterator[Place]:
    """Yield the place of database `name`, after ending a database that a killed server left running in it."""
    path = _home(data_dir, name)
    with _opened(path / "server.lock") as server, _opened(path / "process.lock") as process:
        if not _locked(server):
            raise InUseError(f"{data_dir} is in use by another server: stop it, or set DATA_DIR")
        if not _locked(process):
            await _end_leftover(process, path, stop)
        yield Place(path, process, stop)


def running_sockets(data_dir: Path, name: str) -> Path:
    """Return the directory of the socket on which database `name` of a running server listens."""
    return _sockets_of(data_dir.resolve() / name)


def _sockets_of(home: Path) -> Path:
    path = home / "socket"
    if _PLAIN.fullmatch(str(path)):
        return path
    name = hashlib.sha256(bytes(home)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"aiw-{os.geteuid()}-{name}"


def _home(data_dir: Path, name: str) -> Path:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return _private(data_dir.resolve() / name)


def _private(path: Path) -> Path:
    """Create the directory. Raises EmbeddedError if it belongs to another user or is not a directory."""
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise EmbeddedError(f"{path} is not a directory of this user: start the server as its owner, or set DATA_DIR")
    path.chmod(0o700)
    return path


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


async def _end_leftover(lock: int, path: Path, stop: signal.Signals) -> None:
    """Stop a leftover database, by force after a timeout. It is not reused: it may have other options and lifetime."""
    for attempt in (stop, signal.SIGKILL):
        _signal_writer(lock, attempt)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            if _locked(lock):
                return
            await asyncio.sleep(POLL_SECONDS)
    raise EmbeddedError(f"a process of an earlier server still uses {path} and does not end: stop it")


def _signal_writer(lock: int, number: signal.Signals) -> None:
    """Send a signal to the process in the lock file, if it leads a session as our children do: ids are reused."""
    with suppress(ValueError, ProcessLookupError):
        leader = int(os.pread(lock, 20, 0))
        if os.getsid(leader) == leader:
            os.kill(leader, number)
