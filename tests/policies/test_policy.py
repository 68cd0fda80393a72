"""What holds where an organization and a workspace both have a policy."""

from dataclasses import replace
from typing import Any

import pytest

from aiworkspace_server.policies.policy import Bounds, Limit, Policy, covers, dump, parse, stricter

EVERYTHING = Policy(
    allowed_models=("openai/*", "echo/echo"),
    default_model="echo/echo",
    fallback_models=("openai/gpt-5", "echo/echo"),
    continue_broken_answers=True,
    resume_interrupted_runs=True,
    hedge_after_seconds=1.5,
    bounds=Bounds(0.1, 0.9, 100, 2, True, "medium"),
    limits=(Limit("openai/*", 3, 4000), Limit("echo/echo", 5)),
)


def test_a_policy_is_read_as_it_was_stored() -> None:
    assert parse(dump(EVERYTHING)) == EVERYTHING
    assert parse(dump(Policy())) == parse(None) == Policy()


@pytest.mark.parametrize(
    ("pattern", "model", "covered"),
    [
        ("openai/gpt-5", "openai/gpt-5", True),
        ("openai/gpt-5", "openai/gpt-5-mini", False),
        ("openai/*", "openai/gpt-5", True),
        ("openai/*", "openai-like/gpt-5", False),
        ("local/*", "local/qwen/qwen-3", True),
        ("local/qwen/*", "local/qwen/qwen-3", True),
        ("*/*", "openai/gpt-5", False),
    ],
)
def test_what_a_pattern_names(pattern: str, model: str, covered: bool) -> None:
    assert covers(pattern, model) is covered


@pytest.mark.parametrize(
    ("org", "workspace", "both"),
    [
        (None, None, None),
        (None, ("a/x",), ("a/x",)),
        (("a/x",), None, ("a/x",)),
        (("a/*",), ("a/x", "b/x"), ("a/x",)),
        (("a/x", "b/*"), ("a/*",), ("a/x",)),
        (("a/*", "b/x"), ("a/*", "b/*"), ("a/*", "b/x")),
        (("a/x",), ("b/x",), ()),
    ],
)
def test_models_that_both_allow(org: Any, workspace: Any, both: Any) -> None:
    effective = stricter(Policy(allowed_models=org), Policy(allowed_models=workspace))
    assert effective.allowed_models == both
    for model in ("a/x", "a/y", "b/x", "c/x"):
        allowed = Policy(org).allows(model) and Policy(workspace).allows(model)
        assert effective.allows(model) is allowed, model


@pytest.mark.parametrize(
    ("org", "workspace", "both"),
    [
        (Bounds(), EVERYTHING.bounds, EVERYTHING.bounds),
        (Bounds(0, 0.5, 200, 0, False, "high"), EVERYTHING.bounds, Bounds(0.1, 0.5, 100, 0, True, "medium")),
        (Bounds(max_reasoning_effort="low"), Bounds(max_reasoning_effort="high"), Bounds(max_reasoning_effort="low")),
    ],
)
def test_of_two_bounds_the_tighter_one_holds(org: Bounds, workspace: Bounds, both: Bounds) -> None:
    assert stricter(Policy(bounds=org), Policy(bounds=workspace)).bounds == both
    assert stricter(Policy(bounds=workspace), Policy(bounds=org)).bounds == both


def test_the_rest_is_the_workspaces_where_it_says_something() -> None:
    assert replace(stricter(EVERYTHING, Policy()), limits=()) == replace(EVERYTHING, limits=())
    own = Policy(fallback_models=("a/x",), hedge_after_seconds=9)
    effective = stricter(EVERYTHING, own)
    assert (effective.fallback_models, effective.hedge_after_seconds) == (("a/x",), 9)
    assert (effective.continue_broken_answers, effective.resume_interrupted_runs) == (True, True)
    assert effective.default_model == "echo/echo"
    assert stricter(Policy(limits=(Limit("a/x", 1),)), Policy(limits=(Limit("a/x", 2),))).limits == (
        Limit("a/x", 1),
        Limit("a/x", 2),
    )
