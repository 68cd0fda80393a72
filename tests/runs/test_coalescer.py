"""Gathering of deltas: none while the process has time, and longer as it has less."""

import pytest

from aiworkspace_server.llm.base import Delta
from aiworkspace_server.runs.streams.coalescer import DeltaCoalescer, Load, gather_seconds
from tests.support.waiting import until_true


@pytest.mark.parametrize(
    ("share", "seconds"), [(0.0, 0.0), (0.7, 0.0), (0.85, 0.07), (1.0, 0.1), (1.9, 0.1)], ids=lambda value: str(value)
)
def test_the_busier_the_process_the_longer_deltas_wait(share: float, seconds: float) -> None:
    assert gather_seconds(share) == pytest.approx(seconds)


def test_it_begins_at_a_time_that_is_worth_it() -> None:
    assert 0.04 <= gather_seconds(0.701) < 0.05


def coalescer(load: Load) -> tuple[DeltaCoalescer, list[tuple[str, int]]]:
    sent: list[tuple[str, int]] = []
    return DeltaCoalescer(load, lambda kind, text, tokens: sent.append((text, tokens))), sent


async def test_an_idle_process_sends_each_delta_as_it_comes() -> None:
    to, sent = coalescer(Load())
    for text in ("one ", "two ", "three"):
        to.add(Delta("text", text, 1), at_once=False)
    assert sent == [("one ", 1), ("two ", 1), ("three", 1)]


async def test_a_busy_one_sends_the_first_at_once_and_the_others_together() -> None:
    load = Load()
    load.gather_seconds = 0.01
    to, sent = coalescer(load)
    to.add(Delta("text", "one ", 1), at_once=True)
    for text in ("two ", "three"):
        to.add(Delta("text", text, 1), at_once=False)
    assert sent == [("one ", 1)]
    assert await until_true(lambda: sent[1:]) == [("two three", 2)]


async def test_what_is_held_back_goes_out_before_what_follows() -> None:
    load = Load()
    load.gather_seconds = 60
    to, sent = coalescer(load)
    to.add(Delta("text", "one ", 1), at_once=False)
    to.flush()
    assert sent == [("one ", 1)]
    to.flush()
    assert len(sent) == 1
