"""Verdicts of clamd, and what becomes of a clamd that fails."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiworkspace_server.documents.scanning import Outcome, Timeouts, Verdict, scan
from tests.support.clamd import EICAR, clamd

PIECE = 256 << 10
CLEAN = Verdict(Outcome.CLEAN)
INFECTED = Verdict(Outcome.INFECTED, "Eicar-Test-Signature")
IMPATIENT = Timeouts(connect=0.3, idle=0.3, reply=0.3)


async def pieces(data: bytes, size: int = PIECE) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), size):
        yield data[begin : begin + size]


@pytest.mark.parametrize("size", [0, 1, PIECE, 3 * PIECE + 17])
async def test_clean_file_reaches_clamd_whole(size: int) -> None:
    data = os.urandom(size)
    async with clamd() as daemon:
        assert await scan(daemon.address, pieces(data)) == CLEAN
        assert daemon.received == data


async def test_infection_over_two_pieces_is_named() -> None:
    data = bytes(PIECE - 5) + EICAR + bytes(PIECE)
    async with clamd() as daemon:
        assert await scan(daemon.address, pieces(data)) == INFECTED


async def test_clamd_answers_on_a_socket(tmp_path: Path) -> None:
    async with clamd(socket=tmp_path / "clamd.ctl") as daemon:
        assert await scan(daemon.address, pieces(EICAR)) == INFECTED


async def test_large_part_is_sent_in_chunks() -> None:
    data = os.urandom(5 << 20)
    async with clamd() as daemon:
        assert await scan(daemon.address, pieces(data, len(data))) == CLEAN
        assert daemon.received == data
        assert daemon.largest_chunk == 1 << 20


async def test_file_above_the_limit_of_clamd_is_too_large() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += PIECE
            yield bytes(PIECE)

    async with clamd(stream_max_length=PIECE) as daemon:
        verdict = await scan(daemon.address, endless())
    assert verdict == (Outcome.TOO_LARGE, "larger than StreamMaxLength in clamd.conf")
    assert read < 64 << 20, "nothing is read on after the refusal"


@pytest.mark.parametrize("address", ["127.0.0.1:9", "/nowhere/clamd.ctl"])
async def test_absent_clamd_is_unavailable(address: str) -> None:
    assert (await scan(address, pieces(b"x"))).outcome is Outcome.UNAVAILABLE


async def test_clamd_that_takes_nothing_is_unavailable() -> None:
    async with clamd() as daemon:
        daemon.takes_nothing = True
        verdict = await scan(daemon.address, pieces(bytes(64 << 20)), IMPATIENT)
    assert verdict.outcome is Outcome.UNAVAILABLE


async def test_clamd_that_never_answers_is_unavailable() -> None:
    async with clamd() as daemon:
        daemon.answer = None
        assert await scan(daemon.address, pieces(b"x"), IMPATIENT) == (Outcome.UNAVAILABLE, "no answer in time")


async def test_clamd_that_dies_in_the_middle_is_unavailable() -> None:
    async with clamd() as daemon:
        daemon.gone_after = PIECE
        assert (await scan(daemon.address, pieces(bytes(8 << 20)))).outcome is Outcome.UNAVAILABLE


@pytest.mark.parametrize(
    "answer",
    [
        b"stream: Can't allocate memory ERROR",
        b"COMMAND READ TIMED OUT",
        b"OK",
        b"stream: FOUND",
        b"\xff\xfe",
        b"x" * 9999,
    ],
)
async def test_error_of_clamd_is_never_clean(answer: bytes) -> None:
    async with clamd() as daemon:
        daemon.answer = answer
        assert (await scan(daemon.address, pieces(b"x"))).outcome is Outcome.UNAVAILABLE


async def test_failure_of_the_source_passes_through() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise LookupError("the store is away")

    async with clamd() as daemon:
        with pytest.raises(LookupError):
            await scan(daemon.address, broken())
