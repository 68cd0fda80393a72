"""Parses files in child processes: starts them, bounds them, and checks what they send."""

import asyncio
import json
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

from .failures import FailureReason, ParseFailed
from .frames import LENGTH, LONGEST
from .limits import Limits
from .media_types import text_type
from .text import Block, Place

_log = structlog.get_logger(__name__)
_ENVIRONMENT = {"LANG": "C.UTF-8"}
_MOST_BUFFERED = 1 << 20
_MOST_OF_STDERR = 4_000  # bytes that are logged


@dataclass(slots=True)
class Parsed:
    """The canonical text of a file. Blocks are in order, do not overlap, and each has text."""

    media_type: str
    text: str
    blocks: list[Block]
    page_count: int  # 0: the format has no pages
    unread_pages: list[int]  # pages, from 1, that have content but no text
    peak_memory: int  # bytes of the child


class Parser:
    """Parses files, each in a process of its own. Not more at once than `concurrency`; others wait."""

    def __init__(
        self, limits: Limits | None = None, *, concurrency: int | None = None, tesseract: str | None = None
    ) -> None:
        """`tesseract` is the program that reads pages without text; None looks for it on PATH, "" does without."""
        self._limits = limits or Limits()
        self._slots = asyncio.Semaphore(concurrency or os.cpu_count() or 1)
        self._tesseract = (shutil.which("tesseract") or "") if tesseract is None else tesseract

    async def parse(self, path: Path, name: str) -> Parsed:
        """Return the text of the file at `path`, which was uploaded under `name`.

        Raises ParseFailed. Cancelling kills the child.
        """
        async with self._slots:
            process = await self._start(path, text_type(name))
            stderr = asyncio.create_task(_beginning(process))
            try:
                async with asyncio.timeout(self._limits.seconds):
                    return await self._result(process, stderr)
            except TimeoutError:
                detail = f"Parsing took longer than {self._limits.seconds:g} seconds."
                raise ParseFailed(FailureReason.PARSER_TIMEOUT, detail) from None
            finally:
                await _end(process, stderr)

    async def _start(self, path: Path, text_type: str) -> Process:
        arguments = (text_type, str(os.getpid()), json.dumps(self._limits._asdict()), self._tesseract)
        with await asyncio.to_thread(path.open, "rb") as file:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-B", "-X", "utf8", "-m", f"{__package__}.child", *arguments),
                stdin=file,
                stdout=PIPE,
                stderr=PIPE,
                env=_ENVIRONMENT,
                cwd="/",  # it can open nothing there
                limit=_MOST_BUFFERED,
                start_new_session=True,
            )

    async def _result(self, process: Process, stderr: asyncio.Task[bytes]) -> Parsed:
        assert process.stdout is not None
        assembly = _Assembly(self._limits)
        async for message in _messages(process.stdout):
            if "done" in message:
                return assembly.finish(message["done"])
            if "failed" in message:
                failed = message["failed"]
                _log_errors(await stderr)
                reason = FailureReason(failed["reason"])
                raise ParseFailed(reason, str(failed["detail"]), peak_memory=int(failed["peak_memory"]))
            assembly.add(message)
        raise _crash(await process.wait(), await stderr)


class _Assembly:
    """Puts the messages of a child together. Trusts none of them: the child may have been taken over by its file."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pieces: list[str] = []
        self._length = 0
        self._blocks: list[Block] = []
        self._end = 0  # of the last block

    def add(self, message: dict[str, Any]) -> None:
        """Raises ParseFailed if the message breaks a rule of the canonical text."""
        if "text" in message:
            piece = message["text"]
            _require(isinstance(piece, str) and "\0" not in piece)
            self._pieces.append(piece)
            self._length += len(piece)
            _require(self._length <= self._limits.text_code_points)
        else:
            for block in message["blocks"]:
                self._add_block(*block)

    def finish(self, done: dict[str, Any]) -> Parsed:
        _require(self._end > 0 and self._end <= self._length)
        return Parsed(
            media_type=str(done["media_type"]),
            text="".join(self._pieces),
            blocks=self._blocks,
            page_count=int(done["page_count"]),
            unread_pages=[int(page) for page in done["unread_pages"]],
            peak_memory=int(done["peak_memory"]),
        )

    def _add_block(self, start: int, end: int, place: Place) -> None:
        _require(self._end <= start < end <= self._length and isinstance(place, dict))
        self._blocks.append(Block(start, end, place))
        self._end = end


def _require(holds: bool) -> None:
    if not holds:
        raise ParseFailed(FailureReason.PARSER_CRASHED, "The parser sent a result that breaks its own rules.")


async def _messages(stream: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """Yield the messages of a child until it closes its end."""
    with suppress(asyncio.IncompleteReadError):
        while True:
            (length,) = LENGTH.unpack(await stream.readexactly(LENGTH.size))
            _require(length <= LONGEST)
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


async def _beginning(process: Process) -> bytes:
    """Return the first bytes of what the child writes to stderr. Reads all of it: a full pipe would stop the child."""
    assert process.stderr is not None
    kept = b""
    while piece := await process.stderr.read(_MOST_OF_STDERR):
        kept += piece[: _MOST_OF_STDERR - len(kept)]
    return kept


async def _end(process: Process, stderr: asyncio.Task[bytes]) -> None:
    """Kill the child with all that it started, and reap it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.shield(asyncio.gather(process.wait(), stderr, return_exceptions=True))
