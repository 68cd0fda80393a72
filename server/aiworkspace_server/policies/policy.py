"""Model policies, and the combination of an organization's policy with a workspace's."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter

from ..llm.base import Effort

EFFORTS: tuple[Effort, ...] = ("low", "medium", "high")

Value = TypeVar("Value", int, float)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of parameters. None means unbounded."""

    min_temperature: float | None = None
    max_temperature: float | None = None
    max_output_tokens: int | None = None
    max_stop_count: int | None = None
    seed_forbidden: bool = False
    max_reasoning_effort: Effort | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """Requests and tokens per minute of a model or a whole provider. 0 means no limit."""

    model: str  # its id, or "provider/*"
    requests_per_minute: int = 0
    tokens_per_minute: int = 0


@dataclass(frozen=True, slots=True)
class Policy:
    """Which models may be used and how."""

    allowed_models: tuple[str, ...] | None = None  # ids or "provider/*"; None: all
    default_model: str = ""
    fallback_models: tuple[str, ...] = ()
    continue_broken_answers: bool = False
    resume_interrupted_runs: bool = False
    hedge_after_seconds: float = 0
    bounds: Bounds = Bounds()
    limits: tuple[Limit, ...] = ()

    def allows(self, model: str) -> bool:
        return self.allowed_models is None or any(covers(pattern, model) for pattern in self.allowed_models)


_STORED = TypeAdapter(Policy)


def parse(stored: Mapping[str, Any] | None) -> Policy:
    """Return the policy stored in a row; without a row, one that restricts nothing."""
    return _STORED.validate_python(stored) if stored else Policy()


def dump(policy: Policy) -> dict[str, Any]:
    return asdict(policy)


def covers(pattern: str, model: str) -> bool:
    """Return whether the pattern covers a model or, for another pattern, all of its models."""
    return pattern == model or (pattern.endswith("/*") and model.startswith(pattern[:-1]))


def stricter(org: Policy, workspace: Policy) -> Policy:
    """Return the policy in effect in a workspace: see ModelService in the contract. Limits of both count separately."""
    return Policy(
        allowed_models=_common(org.allowed_models, workspace.allowed_models),
        default_model=org.default_model,
        fallback_models=workspace.fallback_models or org.fallback_models,
        continue_broken_answers=workspace.continue_broken_answers or org.continue_broken_answers,
        resume_interrupted_runs=workspace.resume_interrupted_runs or org.resume_interrupted_runs,
        hedge_after_seconds=workspace.hedge_after_seconds or org.hedge_after_seconds,
        bounds=_tighter(org.bounds, workspace.bounds),
        limits=org.limits + workspace.limits,
    )


def _common(one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the patterns of the models that both name."""
    if one is None or other is None:
        return other if one is None else one
    kept = [pattern for pattern in one if any(covers(each, pattern) for each in other)]
    kept += [pattern for pattern in other if any(covers(each, pattern) for each in one)]
    return tuple(dict.fromkeys(kept))


def _tighter(one: Bounds, other: Bounds) -> Bounds:
    efforts = [EFFORTS.index(each) for each in (one.max_reasoning_effort, other.max_reasoning_effort) if each]
    return Bounds(
        min_temperature=_choose(max, one.min_temperature, other.min_temperature),
        max_temperature=_choose(min, one.max_temperature, other.max_temperature),
        max_output_tokens=_choose(min, one.max_output_tokens, other.max_output_tokens),
        max_stop_count=_choose(min, one.max_stop_count, other.max_stop_count),
        seed_forbidden=one.seed_forbidden or other.seed_forbidden,
        max_reasoning_effort=EFFORTS[min(efforts)] if efforts else None,
    )


def _choose(of: Callable[[list[Value]], Value], *values: Value | None) -> Value | None:
    given = [value for value in values if value is not None]
    return of(given) if given else None
