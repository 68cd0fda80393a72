"""The text process dies, hangs, is cancelled and is left alone, and the calls around it go on."""

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aiworkspace_server.embedding.base import EmbeddingRefused, EmbeddingUnavailable
from aiworkspace_server.embedding.process import TextConfig, TextProcess
from tests.support.waiting import until_true

from .conftest import NewProcess

LONG = " ".join(f"w{number:06d}" for number in range(60_000))  # a second of work
PARENT = """
import asyncio, sys
from pathlib import Path
from aiworkspace_server.embedding.process import TextConfig, TextProcess

async def main():
    process = TextProcess(TextConfig(256, Path(sys.argv[1])))
    await process.split("warm", [(0, 4, {})])
    busy = asyncio.create_task(process.split("word " * 90_000, [(0, 450_000, {})]))
    await asyncio.sleep(0)
    print(process.pid, flush=True)
    await busy
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.fixture
def fresh(new_process: NewProcess, config: TextConfig) -> TextProcess:
    return new_process(config)


async def split(process: TextProcess, text: str) -> list[str]:
    return [text[chunk.start : chunk.end] for chunk in await process.split(text, [(0, len(text), {})])]


async def pid_of(process: TextProcess) -> int:
    pid = await until_true(lambda: process.pid)
    assert pid is not None
    return pid


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


async def test_process_starts_with_the_first_request(fresh: TextProcess) -> None:
    assert fresh.pid is None
    assert await split(fresh, "Hello.") == ["Hello."]
    assert fresh.pid is not None


async def test_request_during_which_the_process_is_killed_is_tried_again(fresh: TextProcess) -> None:
    request = asyncio.create_task(split(fresh, LONG))
    pid = await pid_of(fresh)
    os.kill(pid, signal.SIGKILL)
    assert " ".join(await request) == LONG
    assert fresh.pid not in (None, pid)


async def test_idle_process_that_was_killed_is_replaced(fresh: TextProcess) -> None:
    await split(fresh, "one")
    pid = await pid_of(fresh)
    os.kill(pid, signal.SIGKILL)
    await until_true(lambda: fresh.pid is None)
    assert await split(fresh, "two") == ["two"]


async def test_request_that_kills_the_process_twice_fails_and_the_next_works(fresh: TextProcess) -> None:
    request = asyncio.create_task(split(fresh, LONG))
    first = await pid_of(fresh)
    os.kill(first, signal.SIGKILL)
    second = await until_true(lambda: fresh.pid if fresh.pid != first else None)
    assert second is not None
    os.kill(second, signal.SIGKILL)
    with pytest.raises(EmbeddingUnavailable, match="died"):
        await request
    assert await split(fresh, "next") == ["next"]


async def test_process_that_hangs_is_killed(new_process: NewProcess, config: TextConfig) -> None:
    process = new_process(config, seconds=0.5)
    request = asyncio.create_task(split(process, LONG))
    pid = await pid_of(process)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EmbeddingUnavailable, match="no answer"):
        await request
    assert not is_running(pid)


async def test_process_that_cannot_work_is_unavailable(new_process: NewProcess, config: TextConfig) -> None:
    process = new_process(replace(config, tokenizer=Path("/nowhere/tokenizer.json")))
    for _ in range(2):
        with pytest.raises(EmbeddingUnavailable):
            await split(process, "text")


async def test_failure_in_the_process_is_refused_and_the_process_lives(
    new_process: NewProcess, config: TextConfig
) -> None:
    process = new_process(replace(config, weights=Path("/nowhere")))
    with pytest.raises(EmbeddingRefused, match=r"^embed failed: FileNotFoundError$"):
        await process.embed(["secret"])
    pid = process.pid
    assert await split(process, "next") == ["next"]
    assert process.pid == pid


async def test_cancelled_request_does_not_mix_up_answers(fresh: TextProcess) -> None:
    begun, waiting = (asyncio.create_task(split(fresh, LONG)) for _ in range(2))
    after = asyncio.create_task(fresh.embed(["after"]))
    await pid_of(fresh)
    begun.cancel()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await begun
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await after).vectors.shape == (1, 384)
    assert await split(fresh, "last") == ["last"]


async def test_requests_at_once_get_their_own_answers(fresh: TextProcess) -> None:
    words = [f"word{number}" for number in range(20)]
    split_words = await asyncio.gather(*(split(fresh, word) for word in words))
    assert split_words == [[word] for word in words]
    together = (await fresh.embed(words)).vectors
    alone = await asyncio.gather(*(fresh.embed([word]) for word in words))
    assert np.concatenate([each.vectors for each in alone]) == pytest.approx(together, abs=1e-5)


async def test_close_ends_the_process_and_the_request_in_progress(fresh: TextProcess) -> None:
    request = asyncio.create_task(split(fresh, LONG))
    waiting = asyncio.create_task(split(fresh, LONG))
    pid = await pid_of(fresh)
    await fresh.aclose()
    for task in (request, waiting):
        with pytest.raises(EmbeddingUnavailable, match="stopping"):
            await task
    assert not is_running(pid)
    with pytest.raises(EmbeddingUnavailable):
        await split(fresh, "late")
    assert fresh.pid is None


async def test_process_ends_when_its_server_is_killed_in_the_middle_of_a_request(config: TextConfig) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(config.tokenizer)), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout
    pid = int(await parent.stdout.readline())
    assert is_running(pid)
    parent.kill()
    await parent.wait()
    await until_true(lambda: not is_running(pid))
    assert not is_running(pid)


async def test_lone_surrogates_keep_offsets(fresh: TextProcess) -> None:
    text = "a\ud800b " * 3 + "end"
    [chunk] = await fresh.split(text, [(0, len(text), {})])
    assert (chunk.start, chunk.end) == (0, len(text))
    assert (await fresh.embed(["\udfff"])).vectors.shape == (1, 384)
