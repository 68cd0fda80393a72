"""Tasks that outlive their callers: references, failures, and the end of the server."""

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from aiworkspace_server.kit.context import Call, current
from aiworkspace_server.kit.errors import NotFound
from aiworkspace_server.kit.tasks import Tasks, cancel_all


async def fail(error: Exception) -> None:
    await asyncio.sleep(0)
    raise error


@pytest.fixture
def call() -> Iterator[Call]:
    call = Call(cast(Any, None), cast(Any, None), {})
    token = current.set(call)
    yield call
    current.reset(token)


async def test_complete_after_cancellation_runs_work_to_its_end(call: Call) -> None:
    tasks, go_on, done = Tasks(), asyncio.Event(), []

    async def work() -> None:
        await go_on.wait()
        done.append(True)

    caller = asyncio.create_task(tasks.complete(work()))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert call.work in tasks.pending
    go_on.set()
    await asyncio.wait(tasks.pending)
    assert done == [True]


async def test_complete_within_complete_keeps_the_outer_work_of_the_call(call: Call) -> None:
    tasks = Tasks()

    async def inner() -> asyncio.Task[Any] | None:
        return asyncio.current_task()

    async def outer() -> tuple[Any, Any]:
        return asyncio.current_task(), await tasks.complete(inner())

    first, second = await tasks.complete(outer())
    assert first is not second
    assert call.work is first
    assert not tasks.pending


async def test_failure_is_logged_unless_a_caller_sees_it() -> None:
    tasks = Tasks()
    with capture_logs() as lines:
        with pytest.raises(ValueError, match="seen"):
            await tasks.complete(fail(ValueError("seen")))
        assert lines == []
        tasks.spawn(fail(ValueError("unseen")))
        caller = asyncio.create_task(tasks.complete(fail(NotFound("org_id"))))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait(tasks.pending)
        await asyncio.sleep(0)
    assert sorted((line["event"], line["error"], bool(line["exc_info"])) for line in lines) == [
        ("task_failed", "NotFound", False),
        ("task_failed", "ValueError", True),
    ]


async def test_close_waits_then_cancels() -> None:
    tasks = Tasks()
    soon, never = tasks.spawn(asyncio.sleep(0.01, "done")), tasks.spawn(asyncio.sleep(600))
    await tasks.close(0.1)
    assert (soon.result(), never.cancelled()) == ("done", True)
    assert not tasks.pending
    await tasks.close()


async def test_loops_that_lose_a_cancellation_are_cancelled_again() -> None:
    """As when the error of a broken connection takes its place, or wait_for of Python 3.11 drops it."""
    rounds = list[str]()

    async def broken() -> None:
        while len(rounds) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                rounds.append("broken")
        await asyncio.Event().wait()

    tasks = [asyncio.create_task(work) for work in (broken(), asyncio.sleep(240))]
    await asyncio.sleep(0)
    await cancel_all(tasks)
    assert rounds == ["broken"] * 2
    assert [task.cancelled() for task in tasks] == [True, True]
    await cancel_all([])
