"""A temporary server with its own databases."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_READY = "aiworkspace listening on "
_START_SECONDS = 120.0
_STOP_SECONDS = 30.0
# Settings that must not be inherited, because they name other databases or secrets; empty means unset.
_NOT_INHERITED = (
    "DATABASE_URL",
    "MIGRATION_DATABASE_URL",
    "MONGO_URI",
    "REDIS_URL",
    "TLS_CERT_FILE",
    "TLS_KEY_FILE",
    "JWT_SECRET",
    "JWT_REFRESH_SECRET",
    "PASSWORD_PEPPER",
    "ENCRYPTION_SECRET",
    "ECHO_TOKENS_PER_SECOND",
)


class ServerFailedError(Exception):
    """The server did not start; the message has its log."""


@contextmanager
def own_server(waiting: Callable[[], None], *options: str, **environment: str) -> Iterator[str]:
    """Start a server and yield its address when it is ready. Meanwhile, `waiting` is called ten times a second.

    `options` are those of `serve`, `environment` further settings.
    """
    with tempfile.TemporaryDirectory(prefix="aiworkspace-", ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "aiworkspace_server", "serve", *options],
                env=_environment(folder) | environment,
                # In another directory, so that no .env is read; in its own session, so that Ctrl-C reaches only us.
                cwd=folder,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield _address(process, log, waiting)
        finally:
            _stop(process)


def _environment(folder: str) -> dict[str, str]:
    imports = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    own = {"HOST": "127.0.0.1", "PORT": "0", "DATA_DIR": str(Path(folder) / "data"), "LOG_FORMAT": "console"}
    # Absolute, because the server runs in another directory.
    own["PYTHONPATH"] = os.pathsep.join(str(Path(path).resolve()) for path in imports if path)
    return {**os.environ, **dict.fromkeys(_NOT_INHERITED, ""), **own}


def _address(process: "subprocess.Popen[bytes]", log: Path, waiting: Callable[[], None]) -> str:
    """Wait for the line that names it."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        ready = [line for line in lines if line.startswith(_READY) and line.endswith("\n")]
        if ready:
            return ready[0].removeprefix(_READY).strip()
        if process.poll() is not None:
            raise ServerFailedError(f"The server ended with code {process.returncode}:\n{''.join(lines)}")
        waiting()
        time.sleep(0.1)
    raise ServerFailedError(f"The server was not ready after {_START_SECONDS:.0f} seconds:\n{''.join(lines)}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
