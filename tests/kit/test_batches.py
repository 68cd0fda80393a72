"""Batches: callers who wait together are served together, and each gets what is theirs."""

import asyncio
from collections.abc import Sequence

import pytest

from aiworkspace_server.kit.batches import Batcher
from tests.support.waiting import until_true


class Work:
    """Doubles numbers. Fails if one of them is negative."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def double(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        await self.open.wait()
        if any(number < 0 for number in numbers):
            raise ConnectionError(numbers)
        return [number * 2 for number in numbers]


async def test_who_is_alone_waits_for_nobody() -> None:
    work = Work()
    batcher = Batcher(work.double, 10)
    assert [await batcher.do(1), await batcher.do(2)] == [2, 4]
    assert work.batches == [[1], [2]]


async def test_what_comes_during_a_batch_is_the_next_one() -> None:
    work = Work()
    work.open.clear()
    batcher = Batcher(work.double, 3)
    first = asyncio.create_task(batcher.do(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert work.batches == [[1]]
    others = [asyncio.create_task(batcher.do(number)) for number in range(2, 7)]
    await asyncio.sleep(0)
    work.open.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6, 8, 10, 12]
    assert work.batches == [[1], [2, 3, 4], [5, 6]]


async def test_only_the_caller_of_what_fails_is_told() -> None:
    work = Work()
    batcher = Batcher(work.double, 10)
    outcomes = await asyncio.gather(*(batcher.do(number) for number in (1, -1, 2)), return_exceptions=True)
    assert outcomes[0::2] == [2, 4]
    assert isinstance(outcomes[1], ConnectionError)
    assert work.batches == [[1, -1, 2], [1], [-1], [2]]
    assert await batcher.do(3) == 6


async def test_a_batch_that_takes_long_holds_up_nobody() -> None:
    work = Work()
    work.open.clear()
    batcher = Batcher(work.double, 10, patience_seconds=0.01)
    slow = asyncio.create_task(batcher.do(1))
    await until_true(lambda: work.batches == [[1]])
    others = [asyncio.create_task(batcher.do(number)) for number in (2, 3)]
    await until_true(lambda: work.batches == [[1], [2, 3]])
    work.open.set()
    assert await asyncio.gather(slow, *others) == [2, 4, 6]
    assert await batcher.do(4) == 8
    assert work.batches[2:] == [[4]]


async def test_a_caller_who_goes_away_leaves_the_others_alone() -> None:
    work = Work()
    work.open.clear()
    batcher = Batcher(work.double, 10)
    gone, stays = (asyncio.create_task(batcher.do(number)) for number in (1, 2))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    work.open.set()
    assert await stays == 4
