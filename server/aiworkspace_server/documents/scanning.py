"""Asks clamd, the daemon of ClamAV, whether a file is infected."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple

import structlog

_REPLY_BYTES = 4096
_MOST_BYTES = 1 << 20  # in one chunk
_LATE_SECONDS = 1.0  # for a reply that was sent before the connection was closed
_FOUND = re.compile(r"stream: (.+) FOUND")

log = structlog.get_logger("documents")


class Outcome(StrEnum):
    CLEAN = "clean"
    INFECTED = "infected"
    TOO_LARGE = "too_large"  # for StreamMaxLength of clamd; a retry cannot succeed
    UNAVAILABLE = "unavailable"  # clamd is away, too slow, or answers with an error; a retry may succeed


class Verdict(NamedTuple):
    """`detail` is the name of what was found, or what went wrong; empty for a clean file."""

    outcome: Outcome
    detail: str = ""


class Timeouts(NamedTuple):
    """In seconds."""

    connect: float = 5
    idle: float = 30  # until clamd takes what was sent
    reply: float = 180  # after the last byte; clamd itself gives up after MaxScanTime, two minutes by default


DEFAULT_TIMEOUTS = Timeouts()


async def scan(address: str, parts: AsyncIterator[bytes], timeouts: Timeouts = DEFAULT_TIMEOUTS) -> Verdict:
    """Send a file to clamd and return its verdict. Holds one part in memory.

    `address` is that of CLAMD_ADDRESS. Exceptions of `parts` pass through; those of the connection become UNAVAILABLE.
    """
    try:
        async with asyncio.timeout(timeouts.connect):
            reader, writer = await _connect(address)
    except (OSError, TimeoutError) as error:
        return _unavailable(f"no connection: {type(error).__name__}")
    answering = asyncio.create_task(reader.readuntil(b"\0"))
    try:
        sent = await _send(writer, parts, answering, timeouts.idle)
        await asyncio.wait({answering}, timeout=timeouts.reply if sent else _LATE_SECONDS)
        return _read(answering)
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        writer.transport.abort()


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.startswith("/"):
        return await asyncio.open_unix_connection(address, limit=_REPLY_BYTES)
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port), limit=_REPLY_BYTES)


async def _send(
    writer: asyncio.StreamWriter, parts: AsyncIterator[bytes], answering: asyncio.Task[bytes], seconds: float
) -> bool:
    """Send the file, until clamd answers. Return False if clamd does not take all of it."""
    if not await _write(writer, b"zINSTREAM\0", seconds):
        return False
    async for part in parts:
        for begin in range(0, len(part), _MOST_BYTES):
            chunk = part[begin : begin + _MOST_BYTES]
            if answering.done() or not await _write(writer, len(chunk).to_bytes(4, "big") + chunk, seconds):
                return False
    return await _write(writer, bytes(4), seconds)


async def _write(writer: asyncio.StreamWriter, data: bytes, seconds: float) -> bool:
    """Return False if the connection is broken, or takes nothing in time."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(seconds):
            writer.write(data)
            await writer.drain()
            return True
    return False


def _read(answering: asyncio.Task[bytes]) -> Verdict:
    if not answering.done():
        return _unavailable("no answer in time")
    error = answering.exception()
    if error:
        return _unavailable(f"the connection broke: {type(error).__name__}")
    answer = answering.result().rstrip(b"\0").decode(errors="replace").strip()
    if answer == "stream: OK":
        return Verdict(Outcome.CLEAN)
    if found := _FOUND.fullmatch(answer):
        return Verdict(Outcome.INFECTED, found[1][:200])
    if answer.startswith("INSTREAM size limit exceeded"):
        return Verdict(Outcome.TOO_LARGE, "larger than StreamMaxLength in clamd.conf")
    return _unavailable(f"unexpected answer: {answer[:200]!r}")


def _unavailable(detail: str) -> Verdict:
    log.warning("clamd_unavailable", error=detail)
    return Verdict(Outcome.UNAVAILABLE, detail)
