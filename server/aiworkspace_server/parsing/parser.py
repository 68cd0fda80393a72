"""Parses files in child processes: starts them, bounds them, and checks what they send."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE
from typing import Any

import orjson
import structlog

from ..kit import children
from ..kit.children import Child
from .assembly import Assembly, Parsed, broken_rules, require
from .failures import MOST_OF_DETAIL, FailureReason, ParseFailed
from .frames import LENGTH, LONGEST
from .limits import Limits
from .media_types import text_type

_log = structlog.get_logger(__name__)
_ENVIRONMENT = {"LANG": "C.UTF-8"}
_MOST_OF_STDERR = 4_000  # bytes that are logged


class Parser:
    """Parses files, each in a process of its own. Not more at once than `concurrency`; others wait."""

    def __init__(
        self, limits: Limits | None = None, *, concurrency: int | None = None, tesseract: str | None = None
    ) -> None:
        """`tesseract` is the program that reads pages without text; None looks for it on PATH, "" does without."""
        self._limits = limits or Limits()
        self._slots = asyncio.Semaphore(concurrency or os.cpu_count() or 1)
        self._tesseract = (shutil.which("tesseract") or "") if tesseract is None else tesseract

    async def parse(self, path: Path, name: str, declared: str = "") -> Parsed:
        """Return the text of the file at `path`, which was uploaded under `name`.

        `declared` is its kind of text, see `media_types.declared_type`; without it, the name decides.

        Raises ParseFailed. Cancelling kills the child.
        """
        async with self._slots:
            child = await self._start(path, declared or text_type(name))
            stderr = asyncio.create_task(_beginning(child))
            try:
                async with asyncio.timeout(self._limits.seconds):
                    return await self._result(child, stderr)
            except TimeoutError:
                detail = f"Parsing took longer than {self._limits.seconds:g} seconds."
                raise ParseFailed(FailureReason.PARSER_TIMEOUT, detail) from None
            except (ValueError, LookupError, TypeError) as error:  # of messages that no parser of ours sends
                raise broken_rules() from error
            finally:
                await _end(child, stderr)

    async def _start(self, path: Path, text_type: str) -> Child:
        arguments = (text_type, str(os.getpid()), json.dumps(self._limits._asdict()), self._tesseract)
        with await asyncio.to_thread(path.open, "rb") as file:
            return children.start(
                f"{__package__}.child",
                *arguments,
                env=_ENVIRONMENT,
                stdin=file,
                stdout=PIPE,
                stderr=PIPE,
                cwd="/",  # it can open nothing there
            )

    async def _result(self, child: Child, stderr: asyncio.Task[bytes]) -> Parsed:
        assembly = Assembly(self._limits)
        async for message in _messages(await child.stdout()):
            if "done" in message:
                return assembly.finish(message["done"])
            if "failed" in message:
                failed = message["failed"]
                _log_errors(await stderr)
                reason = FailureReason(failed["reason"])
                detail = str(failed["detail"])[:MOST_OF_DETAIL]
                raise ParseFailed(reason, detail, peak_memory=int(failed["peak_memory"]))
            assembly.add(message)
        raise _crash(await child.wait(), await stderr)


async def _messages(stream: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """Yield the messages of a child until it closes its end."""
    with suppress(asyncio.IncompleteReadError):
        while True:
            (length,) = LENGTH.unpack(await stream.readexactly(LENGTH.size))
            require(length <= LONGEST)
            yield orjson.loads(await stream.readexactly(length))


def _crash(status: int, stderr: bytes) -> ParseFailed:
    """What the end of a child without a last message means."""
    _log_errors(stderr)
    if status == -signal.SIGXCPU:
        return ParseFailed(FailureReason.PARSER_TIMEOUT, "Parsing took more processor time than is allowed.")
    if status == -signal.SIGABRT or b"MemoryError" in stderr:  # PDFium aborts when it gets no memory
        return ParseFailed(FailureReason.PARSER_MEMORY, "Parsing the file needs more memory than is allowed.")
    ended = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
    return ParseFailed(FailureReason.PARSER_CRASHED, f"The parser {ended}.")


def _log_errors(stderr: bytes) -> None:
    if stderr:
        _log.warning("parser_error", stderr=stderr.decode(errors="replace"))


async def _beginning(child: Child) -> bytes:
    """Return the first bytes of what the child writes to stderr. Reads all of it: a full pipe would stop the child."""
    kept, stream = b"", await child.stderr()
    while piece := await stream.read(_MOST_OF_STDERR):
        kept += piece[: _MOST_OF_STDERR - len(kept)]
    return kept


async def _end(child: Child, stderr: asyncio.Task[bytes]) -> None:
    """Kill the child with all that it started, and reap it."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    try:
        await asyncio.shield(asyncio.gather(child.wait(), stderr, return_exceptions=True))
    finally:
        child.close()
