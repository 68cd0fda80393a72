"""Retry and fallback policy: the next target after a failed attempt."""

import random
from collections.abc import Callable

from ...llm.base import ProviderError
from ...llm.rules import RULES
from ...policies.plan import Plan, Target

_FIRST_BACKOFF_SECONDS = 0.5
_MOST_BACKOFF_SECONDS = 8.0
_MOST_RETRY_AFTER_SECONDS = 20.0  # a provider that asks for a longer wait is not retried
_chance = random.SystemRandom()


class FallbackPolicy:
    """The way of one run through the targets of its plan. `is_open` tells whether a target's circuit breaker is."""

    def __init__(self, plan: Plan, is_open: Callable[[Target], bool], tries_per_target: int = 3) -> None:
        self._plan = plan
        self._is_open = is_open
        self._tries_per_target = tries_per_target
        self._index = 0
        self._tries = 1
        self._continued_alone = False

    @property
    def target(self) -> Target:
        return self._plan.targets[self._index]

    @property
    def next_target(self) -> Target | None:
        """The target that comes after the present one."""
        index = self._next()
        return None if index is None else self._plan.targets[index]

    def after(self, error: BaseException | None, *, has_output: bool) -> tuple[Target, float] | None:
        """Return the next target and the seconds to wait before it is asked; None to give up."""
        if error is None:
            return None
        if not isinstance(error, ProviderError):  # a defect here, which another wire format may not have
            return None if has_output else self._fall_back()
        if has_output:
            return self._continue()
        return self._retry(error) or self._fall_back()

    def advance(self) -> Target | None:
        """Make the next target the present one, and return it."""
        step = self._fall_back()
        return step[0] if step else None

    def _retry(self, error: ProviderError) -> tuple[Target, float] | None:
        rule = RULES[error.kind]
        if not rule.retried or self._tries >= self._tries_per_target or self._is_open(self.target):
            return None
        if rule.dead and self._next() is not None:
            return None
        if (error.retry_after or 0) > _MOST_RETRY_AFTER_SECONDS:
            return None
        self._tries += 1
        return self.target, _backoff(self._tries - 1) if error.retry_after is None else error.retry_after

    def _fall_back(self) -> tuple[Target, float] | None:
        index = self._next()
        if index is None:
            return None
        self._index, self._tries = index, 1
        return self.target, 0.0

    def _continue(self) -> tuple[Target, float] | None:
        """Return the next step after an answer that broke off."""
        if not self._plan.continue_broken_answers:
            return None
        if step := self._fall_back():
            return step
        if self._continued_alone or self._is_open(self.target):
            return None
        self._continued_alone, self._tries = True, 1
        return self.target, 0.0

    def _next(self) -> int | None:
        left = range(self._index + 1, len(self._plan.targets))
        return next((index for index in left if not self._is_open(self._plan.targets[index])), None)


def _backoff(tries: int) -> float:
    """Exponential with full jitter: clients that failed together do not retry together."""
    return _chance.uniform(0, min(_MOST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** (tries - 1)))
