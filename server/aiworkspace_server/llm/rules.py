"""What follows from each kind of failure: the one table that retries, fallback and circuit breakers read.

Before the first content every failure leads on to the next model, since another provider may not have it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from .base import ErrorKind


class Counts(Enum):
    """Against whom a failure counts."""

    ACCOUNT = auto()  # no input can provoke it, so that it tells of the account whoever asks
    MODEL = auto()  # an input may have provoked it: it counts for this organization and this model alone
    NOTHING = auto()  # says nothing about the account
    ANSWERED = auto()  # the account works: it understood the request and refused it


@dataclass(frozen=True, slots=True)
class Rule:
    """`retried`: the same model is asked again. `dead`: not while there is another, since nobody answered at all."""

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
