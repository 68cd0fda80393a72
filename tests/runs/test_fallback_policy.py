"""What is tried after which failure."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from aiworkspace_server.llm.base import ErrorKind, Parameters, ProviderError
from aiworkspace_server.llm.rules import RULES
from aiworkspace_server.policies.plan import Plan, Target
from aiworkspace_server.runs.attempts.fallback import FallbackPolicy


def target(model: str) -> Target:
    return Target(model, model, cast(Any, None), own_key=False, account=model)


def policy(*models: str, closed: Sequence[str] = (), continue_broken: bool = False) -> FallbackPolicy:
    plan = Plan(tuple(map(target, models)), Parameters(), 100, continue_broken_answers=continue_broken)
    return FallbackPolicy(plan, lambda target: target.model in closed)


def error(kind: ErrorKind, **fields: Any) -> ProviderError:
    return ProviderError(kind, "for a test", **fields)


def way(policy: FallbackPolicy, *failures: ProviderError, spoke: bool = False) -> list[str | None]:
    """The models that are asked after each of the failures."""
    steps = [policy.after(failure, has_output=spoke) for failure in failures]
    return [step[0].model if step else None for step in steps]


AWAY = error(ErrorKind.UNAVAILABLE, status=503, free=True)


@pytest.mark.parametrize("kind", [ErrorKind.UNAVAILABLE, ErrorKind.RATE_LIMITED, ErrorKind.CUT])
def test_three_tries_with_each_model_in_turn(kind: ErrorKind) -> None:
    assert way(policy("a", "b"), *[error(kind)] * 6) == ["a", "a", "b", "b", "b", None]


@pytest.mark.parametrize("kind", [kind for kind, rule in RULES.items() if not rule.retried])
def test_what_will_not_change_goes_to_the_next_model_at_once(kind: ErrorKind) -> None:
    assert way(policy("a", "b"), error(kind), error(kind)) == ["b", None]


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_before_the_first_content_every_failure_leads_on_to_the_next_model(kind: ErrorKind) -> None:
    way_on = way(policy("a", "b"), *[error(kind)] * 3)
    assert way_on == (["a", "a", "b"] if RULES[kind].retried and not RULES[kind].dead else ["b", *way_on[1:]])


def test_a_defect_is_not_repeated_but_leads_on() -> None:
    defect = policy("a", "b")
    assert defect.after(ValueError(), has_output=False) == (target("b"), 0)
    assert defect.after(ValueError(), has_output=False) is None
    assert policy("a", "b", continue_broken=True).after(ValueError(), has_output=True) is None
    assert policy("a", "b").after(None, has_output=False) is None


DEAD = [error(ErrorKind.TIMEOUT), error(ErrorKind.UNREACHED, free=True)]


@pytest.mark.parametrize("failure", DEAD, ids=["silence", "no connection"])
def test_who_does_not_answer_at_all_is_left_at_once_while_there_is_another(failure: ProviderError) -> None:
    assert way(policy("a", "b"), *[failure] * 4) == ["b", "b", "b", None]


def test_the_wait_grows_and_is_a_matter_of_chance() -> None:
    for most, tries in ((0.5, 1), (1.0, 2)):
        waits = set()
        for _ in range(50):
            step: Any = None
            tried = policy("a")
            for _ in range(tries):
                step = tried.after(AWAY, has_output=False)
            waits.add(step[1])
        assert len(waits) > 1
        assert all(0 <= wait <= most for wait in waits)


def test_the_wait_that_the_provider_asks_for_is_kept_unless_it_is_long() -> None:
    asked = policy("a", "b")
    assert asked.after(error(ErrorKind.RATE_LIMITED, retry_after=20), has_output=False) == (target("a"), 20)
    assert asked.after(error(ErrorKind.RATE_LIMITED, retry_after=21), has_output=False) == (target("b"), 0)
    assert asked.after(error(ErrorKind.RATE_LIMITED, retry_after=21), has_output=False) is None


def test_a_model_that_is_not_to_be_asked_is_passed_over() -> None:
    assert way(policy("a", "b", "c", closed=["b"]), error(ErrorKind.MISCONFIGURED)) == ["c"]
    assert way(policy("a", "b", closed=["a", "b"]), AWAY) == [None]


def test_a_broken_answer_is_gone_on_with_only_if_the_policy_says_so() -> None:
    cut = error(ErrorKind.CUT)
    assert way(policy("a", "b"), cut, spoke=True) == [None]
    assert way(policy("a", "b", continue_broken=True), cut, cut, cut, spoke=True) == ["b", "b", None]
    assert way(policy("a", continue_broken=True), cut, cut, spoke=True) == ["a", None]
