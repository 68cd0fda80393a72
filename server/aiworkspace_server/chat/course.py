"""What to try next when an attempt has failed: the same model again, another one, or nothing."""

import random
from collections.abc import Callable

from ..llm.base import ProviderError
from ..llm.rules import RULES
from ..policies.plan import Plan, Target

TRIES_PER_TARGET = 3
_FIRST_BACKOFF_SECONDS = 0.5
_MOST_BACKOFF_SECONDS = 8.0
_MOST_RETRY_AFTER_SECONDS = 20.0  # who asks for a longer wait is given up
_chance = random.SystemRandom()


class Course:
    """The way of one run through the targets of its plan. `is_closed` tells of targets that are not to be asked now."""

    def __init__(self, plan: Plan, is_closed: Callable[[Target], bool]) -> None:
        self._plan = plan
        self._is_closed = is_closed
        self._index = 0
        self._tries = 1
        self._went_on_alone = False

    @property
    def target(self) -> Target:
        return self._plan.targets[self._index]

    @property
    def following(self) -> Target | None:
        """The next target, whatever becomes of this one."""
        index = self._next()
        return None if index is None else self._plan.targets[index]

    def after(self, error: BaseException | None, spoke: bool) -> tuple[Target, float] | None:
        """The next target and the seconds to wait before it is asked. `spoke`: the attempt gave any content."""
        if error is None:
            return None
        if not isinstance(error, ProviderError):  # a defect here, which another wire format may not have
            return None if spoke else self._fall_back()
        if spoke:
            return self._go_on()
        return self._again(error) or self._fall_back()

    def pass_on(self) -> Target | None:
        """Goes on to the next target, whatever became of this one."""
        step = self._fall_back()
        return step[0] if step else None

    def _again(self, error: ProviderError) -> tuple[Target, float] | None:
        rule = RULES[error.kind]
        if not rule.retried or self._tries >= TRIES_PER_TARGET or self._is_closed(self.target):
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

    def _go_on(self) -> tuple[Target, float] | None:
        """After an answer that broke off in its middle."""
        if not self._plan.continue_broken_answers:
            return None
        if step := self._fall_back():
            return step
        if self._went_on_alone or self._is_closed(self.target):
            return None
        self._went_on_alone, self._tries = True, 1
        return self.target, 0.0

    def _next(self) -> int | None:
        left = range(self._index + 1, len(self._plan.targets))
        return next((index for index in left if not self._is_closed(self._plan.targets[index])), None)


def _backoff(tries: int) -> float:
    """Exponential, with full jitter: those who failed together do not come back together."""
    return _chance.uniform(0, min(_MOST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** (tries - 1)))
