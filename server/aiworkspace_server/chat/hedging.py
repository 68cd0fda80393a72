"""Asking a second model beside one that keeps silent: whoever gives content first is heard, the other is stopped."""

import asyncio
from collections.abc import Awaitable, Callable

from .asking import Asking
from .trying import Tries
from .voice import Voice

Tasks = dict[asyncio.Task[None], Asking]


async def hedge(
    voice: Voice, tries: Tries, tasks: Tasks, seconds: float, beside: Callable[[], Awaitable[Asking | None]]
) -> Asking:
    """`tasks` has the first attempt; `beside` makes the other. Returns the one that is to be judged."""
    voice.race(list(tasks.values()))
    speaking = asyncio.create_task(voice.spoken.wait())
    try:
        await asyncio.wait({speaking, *tasks}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        silent = not any(task.done() for task in (speaking, *tasks))
        if silent and (second := await beside()):
            if voice.spoken.is_set():
                second.lose()  # too late; it was reserved, and is released
            tasks[asyncio.create_task(tries.make(second))] = second
        return await _race(voice, tasks)
    finally:
        for task in (speaking, *tasks):
            task.cancel()


async def _race(voice: Voice, tasks: Tasks) -> Asking:
    """Until each has ended: one with an answer, which stops the other, or all with a failure."""
    voice.race([] if voice.spoken.is_set() else list(tasks.values()))
    running = set(tasks)
    judged: Asking | None = None
    while running:
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
            asking = tasks[task]
            if asking.state == "completed":
                voice.win(asking)
            if judged is None or judged.lost or asking.state == "completed" or (asking.spoke and not asking.lost):
                judged = asking
    assert judged
    return judged
