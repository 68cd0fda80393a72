"""Circuit breakers: which failures open them for whom, how long for, and what closes them."""

from uuid import UUID

import pytest

from aiworkspace_server.llm.base import ErrorKind
from aiworkspace_server.llm.breaker import FAILURES_IN_A_ROW, Asked, Breakers, Pass
from aiworkspace_server.llm.rules import RULES, Counts

ORGS = [UUID(int=number) for number in range(1, 4)]
MINE = Asked("openai", "gpt-4o", ORGS[0])
THEIRS = Asked("openai", "gpt-4o", ORGS[1])
OTHER_MODEL = Asked("openai", "gpt-4.1", ORGS[0])
COUNTED = [kind for kind, rule in RULES.items() if rule.counts in (Counts.ACCOUNT, Counts.MODEL)]
UNPROVOKED = [kind for kind, rule in RULES.items() if rule.counts is Counts.ACCOUNT]


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


def enter(breakers: Breakers, asked: Asked = MINE) -> Pass:
    admitted = breakers.enter(asked)
    assert admitted
    return admitted


def fail(breakers: Breakers, times: int, kind: ErrorKind = ErrorKind.UNAVAILABLE, asked: Asked = MINE) -> None:
    for _ in range(times):
        enter(breakers, asked).failed(kind)


def test_every_kind_of_failure_has_its_rule() -> None:
    assert set(RULES) == set(ErrorKind)
    unprovoked = {ErrorKind.UNREACHED, ErrorKind.MISCONFIGURED, ErrorKind.QUOTA_EXHAUSTED, ErrorKind.OVERBILLED}
    assert set(UNPROVOKED) == unprovoked
    assert set(COUNTED) == {*UNPROVOKED, ErrorKind.UNAVAILABLE, ErrorKind.TIMEOUT, ErrorKind.FORBIDDEN}


@pytest.mark.parametrize("kind", COUNTED)
def test_failures_in_a_row_open_it_for_this_model_and_organization(breakers: Breakers, kind: ErrorKind) -> None:
    fail(breakers, FAILURES_IN_A_ROW - 1, kind)
    assert not breakers.is_open(MINE)
    fail(breakers, 1, kind)
    assert breakers.is_open(MINE)
    assert breakers.enter(MINE) is None


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_no_failure_of_one_organization_shuts_out_another(breakers: Breakers, kind: ErrorKind) -> None:
    for _ in range(10 * FAILURES_IN_A_ROW):
        for asked in (MINE, OTHER_MODEL):
            if admitted := breakers.enter(asked):
                admitted.failed(kind)
    assert not breakers.is_open(THEIRS)


@pytest.mark.parametrize("kind", [kind for kind in ErrorKind if kind not in UNPROVOKED])
def test_no_failure_that_input_can_provoke_shuts_out_others(breakers: Breakers, kind: ErrorKind) -> None:
    for org_id in ORGS[:2]:
        for _ in range(FAILURES_IN_A_ROW):
            if admitted := breakers.enter(Asked("openai", "gpt-4o", org_id)):
                admitted.failed(kind)
    assert not breakers.is_open(Asked("openai", "gpt-4o", ORGS[2]))
    assert not breakers.is_open(OTHER_MODEL)


@pytest.mark.parametrize("kind", UNPROVOKED)
def test_what_several_organizations_meet_closes_the_account_to_all(breakers: Breakers, kind: ErrorKind) -> None:
    fail(breakers, FAILURES_IN_A_ROW - 1, kind)
    fail(breakers, 1, kind, THEIRS)
    assert breakers.is_open(Asked("openai", "gpt-4.1", ORGS[2]))
    assert not breakers.is_open(Asked("openai/key", "gpt-4.1", ORGS[2]))


@pytest.mark.parametrize("kind", [kind for kind, rule in RULES.items() if rule.counts is Counts.ANSWERED] + [None])
def test_an_answer_in_between_begins_the_count_anew(breakers: Breakers, kind: ErrorKind | None) -> None:
    fail(breakers, FAILURES_IN_A_ROW - 1)
    enter(breakers).failed(kind) if kind else enter(breakers).succeeded()
    fail(breakers, FAILURES_IN_A_ROW - 1)
    assert not breakers.is_open(MINE)


def test_what_was_stopped_or_limited_says_nothing(breakers: Breakers) -> None:
    fail(breakers, FAILURES_IN_A_ROW - 1)
    enter(breakers).left()
    enter(breakers).failed(ErrorKind.RATE_LIMITED)
    enter(breakers).failed(ErrorKind.CUT)
    fail(breakers, 1)
    assert breakers.is_open(MINE)


def test_one_probe_at_a_time_is_let_through_and_its_answer_closes_it(breakers: Breakers, clock: Clock) -> None:
    fail(breakers, FAILURES_IN_A_ROW)
    clock.time += 14.9
    assert breakers.enter(MINE) is None
    clock.time += 0.1
    probe = enter(breakers)
    assert breakers.enter(MINE) is None
    probe.answered()  # the first content: nobody has to wait for the last
    assert breakers.enter(MINE)
    assert breakers.enter(MINE)


def test_a_probe_that_hangs_does_not_keep_others_out(breakers: Breakers, clock: Clock) -> None:
    fail(breakers, FAILURES_IN_A_ROW - 1, ErrorKind.UNREACHED)
    fail(breakers, 1, ErrorKind.UNREACHED, THEIRS)
    clock.time += 15
    enter(breakers)
    assert breakers.enter(THEIRS) is None
    clock.time += 10
    enter(breakers, THEIRS).answered()
    assert not breakers.is_open(Asked("openai", "gpt-4.1", ORGS[2]))


def test_it_stays_open_longer_each_time_up_to_two_minutes(breakers: Breakers, clock: Clock) -> None:
    fail(breakers, FAILURES_IN_A_ROW)
    for seconds in (15, 30, 60, 120, 120):
        clock.time += seconds - 0.1
        assert breakers.enter(MINE) is None
        clock.time += 0.1
        enter(breakers).failed(ErrorKind.TIMEOUT)


def test_a_probe_that_was_stopped_leaves_room_for_the_next(breakers: Breakers, clock: Clock) -> None:
    fail(breakers, FAILURES_IN_A_ROW)
    clock.time += 15
    enter(breakers).left()
    probe = enter(breakers)
    probe.failed(ErrorKind.RATE_LIMITED)
    enter(breakers).succeeded()
    assert not breakers.is_open(MINE)


def test_failures_of_requests_from_before_do_not_lengthen_it(breakers: Breakers, clock: Clock) -> None:
    earlier = [enter(breakers) for _ in range(3 * FAILURES_IN_A_ROW)]
    for admitted in earlier:
        admitted.failed(ErrorKind.UNAVAILABLE)
    clock.time += 15
    assert breakers.enter(MINE)
