"""The consequences of each kind of failure, for retries, fallback and circuit breakers.

Before the first content, every failure leads to the next model, because another provider may not have it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from .base import ErrorKind


class Counts(Enum):
    """Which circuit breaker counts a failure."""

    ACCOUNT = auto()  # no input can provoke it, so it counts for the account and all organizations
    MODEL = auto()  # an input may have provoked it: it counts only for this organization and this model
    NOTHING = auto()  # says nothing about the account
    ANSWERED = auto()  # the account works: it understood the request and refused it


@dataclass(frozen=True, slots=True)
class Rule:
    """`retried`: the same model is tried again. `dead`: other models first, because the provider did not respond."""

    retried: bool
    counts: Counts
    dead: bool = False


RULES: Mapping[ErrorKind, Rule] = {
    ErrorKind.UNREACHED: Rule(retried=True, counts=Counts.ACCOUNT, dead=True),
    ErrorKind.UNAVAILABLE: Rule(retried=True, counts=Counts.MODEL),
    ErrorKind.RATE_LIMITED: Rule(retried=True, counts=Counts.NOTHING),
    ErrorKind.REJECTED: Rule(retried=False, counts=Counts.ANSWERED),
    ErrorKind.CONTEXT_TOO_LONG: Rule(retried=False, counts=Counts.ANSWERED),
    ErrorKind.MODEL_NOT_FOUND: Rule(retried=False, counts=Counts.ANSWERED),
    ErrorKind.MISCONFIGURED: Rule(retried=False, counts=Counts.ACCOUNT),
    ErrorKind.FORBIDDEN: Rule(retried=False, counts=Counts.MODEL),
    ErrorKind.QUOTA_EXHAUSTED: Rule(retried=False, counts=Counts.ACCOUNT),
    ErrorKind.TIMEOUT: Rule(retried=True, counts=Counts.MODEL, dead=True),
    ErrorKind.CUT: Rule(retried=True, counts=Counts.NOTHING),
    ErrorKind.OVERBILLED: Rule(retried=False, counts=Counts.ACCOUNT),
}
