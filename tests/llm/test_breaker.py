"""Circuit breakers: when they open, how long for, and what closes them."""

import pytest

from aiworkspace_server.llm.base import ErrorKind
from aiworkspace_server.llm.breaker import FAILURES_IN_A_ROW, Breakers, Pass

ACCOUNT = "openai/key"


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breakers(clock: Clock) -> Breakers:
    return Breakers(clock)


def enter(breakers: Breakers) -> Pass:
    admitted = breakers.enter(ACCOUNT)
    assert admitted
    return admitted


def fail(breakers: Breakers, times: int, kind: ErrorKind = ErrorKind.UNAVAILABLE) -> None:
    for _ in range(times):
        enter(breakers).failed(kind)


@pytest.mark.parametrize("kind", [ErrorKind.UNAVAILABLE, ErrorKind.TIMEOUT, ErrorKind.MISCONFIGURED])
def test_it_opens_after_failures_in_a_row(breakers: Breakers, kind: ErrorKind) -> None:
    fail(breakers, FAILURES_IN_A_ROW - 1, kind)
    assert not breakers.is_open(ACCOUNT)
    fail(breakers, 1, kind)
    assert breakers.is_open(ACCOUNT)
    assert breakers.enter(ACCOUNT) is None
    assert breakers.enter("openai/another key")


@pytest.mark.parametrize("kind", [ErrorKind.REJECTED, ErrorKind.CONTEXT_TOO_LONG, None])
def test_an_answer_in_between_begins_the_count_anew(breakers: Breakers, kind: ErrorKind | None) -> None:
    fail(breakers, FAILURES_IN_A_ROW - 1)
    enter(breakers).failed(kind) if kind else enter(breakers).succeeded()
    fail(breakers, FAILURES_IN_A_ROW - 1)
    assert not breakers.is_open(ACCOUNT)


def test_what_was_stopped_or_limited_says_nothing(breakers: Breakers) -> None:
    fail(breakers, FAILURES_IN_A_ROW - 1)
    enter(breakers).left()
    enter(breakers).failed(ErrorKind.RATE_LIMITED)
    enter(breakers).failed(ErrorKind.CUT)
    fail(breakers, 1)
    assert breakers.is_open(ACCOUNT)


def test_one_probe_at_a_time_is_let_through_and_its_answer_closes_it(breakers: Breakers, clock: Clock) -> None:
    fail(breakers, FAILURES_IN_A_ROW)
    clock.time += 14.9
    assert breakers.enter(ACCOUNT) is None
    clock.time += 0.1
    probe = enter(breakers)
    assert breakers.enter(ACCOUNT) is None
    probe.answered()  # the first content: nobody has to wait for the last
    assert breakers.enter(ACCOUNT)
    assert breakers.enter(ACCOUNT)


def test_it_stays_open_longer_each_time_up_to_two_minutes(breakers: Breakers, clock: Clock) -> None:
    fail(breakers, FAILURES_IN_A_ROW)
    for seconds in (15, 30, 60, 120, 120):
        clock.time += seconds - 0.1
        assert breakers.enter(ACCOUNT) is None
        clock.time += 0.1
        enter(breakers).failed(ErrorKind.TIMEOUT)


def test_a_probe_that_was_stopped_leaves_room_for_the_next(breakers: Breakers, clock: Clock) -> None:
    fail(breakers, FAILURES_IN_A_ROW)
    clock.time += 15
    enter(breakers).left()
    probe = enter(breakers)
    probe.failed(ErrorKind.RATE_LIMITED)
    enter(breakers).succeeded()
    assert not breakers.is_open(ACCOUNT)


def test_failures_of_requests_from_before_do_not_lengthen_it(breakers: Breakers, clock: Clock) -> None:
    earlier = [enter(breakers) for _ in range(3 * FAILURES_IN_A_ROW)]
    for admitted in earlier:
        admitted.failed(ErrorKind.UNAVAILABLE)
    clock.time += 15
    assert breakers.enter(ACCOUNT)
