"""Hedging: asks a second model if the first is silent, streams the one that answers first and stops the other."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ..models import RunState
from .attempt import Attempt
from .output import OutputSelector

Running = dict[asyncio.Task[None], Attempt]


async def hedge(
    output: OutputSelector,
    running: Running,
    seconds: float,
    second: Callable[[], Awaitable[tuple[asyncio.Task[None], Attempt] | None]],
) -> Attempt:
    """Return the attempt whose outcome counts.

    `running` has the first attempt; `second` starts another one, if there is anything to ask, after `seconds` of
    silence.
    """
    output.race(list(running.values()))
    selected = asyncio.create_task(output.selected.wait())
    try:
        waiting: set[asyncio.Task[Any]] = {selected, *running}
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        silent = not any(task.done() for task in waiting)
        if silent and (started := await second()):
            task, attempt = started
            if output.selected.is_set():
                attempt.lose()  # too late: its reservation is released
            running[task] = attempt
        return await _race(output, running)
    finally:
        for left in (selected, *running):
            left.cancel()


async def _race(output: OutputSelector, attempts: Running) -> Attempt:
    """Wait until each has ended: one with an answer, which stops the other, or all with a failure."""
    output.race([] if output.selected.is_set() else list(attempts.values()))
    running = set(attempts)
    decisive: Attempt | None = None
    while running:
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
            attempt = attempts[task]
            completed = attempt.state == RunState.COMPLETED
            if completed:
                output.select(attempt)
            if decisive is None or decisive.lost or completed or (attempt.has_output and not attempt.lost):
                decisive = attempt
    assert decisive
    return decisive
