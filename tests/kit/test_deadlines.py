"""Deadlines: tasks that take too long end with TimeoutError, others notice nothing."""

import asyncio
import time

import pytest

from aiworkspace_server.kit.deadlines import Deadlines


async def within(deadlines: Deadlines, seconds: float) -> str:
    with deadlines:
        await asyncio.sleep(seconds)
    return "done"


async def test_only_tasks_beyond_the_deadline_time_out() -> None:
    deadlines = Deadlines(0.2)
    slow = [asyncio.create_task(within(deadlines, 60)) for _ in range(2)]
    quick = asyncio.create_task(within(deadlines, 0))
    await asyncio.sleep(0.1)
    late = asyncio.create_task(within(deadlines, 60))
    await asyncio.wait(slow, return_when=asyncio.ALL_COMPLETED)
    assert quick.result() == "done"
    assert [type(task.exception()) for task in slow] == [TimeoutError] * 2
    assert not late.done(), "its time began later"
    with pytest.raises(TimeoutError):
        await late
    assert await within(deadlines, 0) == "done", "it can be used again"


async def test_cancelled_task_stays_cancelled() -> None:
    deadlines = Deadlines(60)
    task = asyncio.create_task(within(deadlines, 60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_task_cancelled_while_it_times_out_stays_cancelled() -> None:
    task = asyncio.create_task(within(Deadlines(0.01), 60))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.01, task.cancel)
    time.sleep(0.05)  # noqa: ASYNC251 - so that both happen before the task runs
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_time_is_over_after_the_block() -> None:
    deadlines = Deadlines(0.05)
    assert await within(deadlines, 0) == "done"
    await asyncio.sleep(0.1)  # the timer of the block above has nothing to end
