"""Structured logs: JSON for machines, columns for a terminal."""

import asyncio
import atexit
import logging
import sys
import threading
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, BinaryIO
from uuid import UUID

import orjson
import structlog
from structlog.typing import Processor

from .context import current_trace_id


def configure(form: str, level: str, **always: object) -> None:
    """`form` is "json", "console", or "auto": console when standard error is a terminal. `always` is in every line."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    lines = Lines(sys.stderr.buffer)
    structlog.configure(
        processors=_console(always) if console else [_json(always)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr) if console else lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("grpc._cython.cygrpc").addFilter(_matters)


class Lines:
    """A structlog logger that writes lines of bytes: warnings and errors at once, others together a little later.

    Each write releases the interpreter's lock, and gRPC's threads take it meanwhile. With a write for each call, that
    costs a call more than the rest of its logging. If the process is killed, buffered lines are lost.
    """

    _GATHER_SECONDS = 0.02
    _MOST_LINES = 256

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lines: list[bytes] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # which flushes soon
        self._lock = threading.Lock()
        atexit.register(self.flush)

    def info(self, line: bytes) -> None:
        self._lines.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a command, or a thread
            return self.flush()
        if len(self._lines) >= self._MOST_LINES:
            self.flush()
        elif self._loop is not loop:
            self._loop = loop
            loop.call_later(self._GATHER_SECONDS, self.flush)

    def error(self, line: bytes) -> None:
        self._lines.append(line)
        self.flush()

    debug = info
    warning = critical = error

    def flush(self) -> None:
        """Write the buffered lines."""
        with self._lock:
            self._loop = None
            lines, self._lines = self._lines, []
            if lines:
                self._stream.write(b"\n".join((*lines, b"")))
                self._stream.flush()


def _console(always: dict[str, object]) -> list[Processor]:
    return [
        lambda logger, method, fields: {**always, **_trace(), **{key: _plain(value) for key, value in fields.items()}},
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Plain tracebacks: the others print local variables, which hold what must not be logged.
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]


def _trace() -> dict[str, object]:
    return {"trace_id": trace_id} if (trace_id := current_trace_id.get()) else {}


def _plain(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value


def _json(always: dict[str, object]) -> Processor:
    """Return one processor instead of several: each costs every call a microsecond."""

    def render(logger: Any, method: str, fields: MutableMapping[str, Any]) -> bytes:
        if "exc_info" in fields:
            fields = structlog.processors.format_exc_info(logger, method, fields)
        line = {**always, **_trace(), **fields, "level": method, "timestamp": datetime.now(UTC)}
        return orjson.dumps(line, default=repr, option=orjson.OPT_UTC_Z)

    return render


# Messages of gRPC: one quotes a header that is not UTF-8, which may be a credential; the other says that a caller
# disconnected during the response.
_IMMATERIAL = "Invalid encoding", "ExecuteBatchError raised in core"


def _matters(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_IMMATERIAL)
