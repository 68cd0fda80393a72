"""Circuit breakers: an account at a provider that keeps failing is left alone for a while, then tried with one request.

The breakers are this process's own: each process finds out by itself, and forgets when it ends.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from .base import ErrorKind

FAILURES_IN_A_ROW = 5
_FIRST_SECONDS = 15.0
_MOST_SECONDS = 120.0
# What shows that an account cannot be asked. A refusal shows that it can, and a rate limit shows nothing.
_COUNTED = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.TIMEOUT, ErrorKind.MISCONFIGURED})


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    seconds: float = 0  # how long it stays open this time; 0: it is closed
    until: float = 0
    probing: bool = False


class Breakers:
    """One circuit for each account. An account without failures has none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._circuits: dict[str, _Circuit] = {}

    def is_open(self, account: str) -> bool:
        """Whether the account is not to be asked now."""
        circuit = self._circuits.get(account)
        return bool(circuit and circuit.seconds and (circuit.probing or self._clock() < circuit.until))

    def enter(self, account: str) -> "Pass | None":
        """Leave to ask the account once; None while its circuit is open. When that ends, the first one is a probe."""
        if self.is_open(account):
            return None
        circuit = self._circuits.get(account)
        probe = bool(circuit and circuit.seconds)
        if circuit and probe:
            circuit.probing = True
        return Pass(self, account, probe)

    def close(self, account: str) -> None:
        self._circuits.pop(account, None)

    def forget(self) -> None:
        """Closes all circuits."""
        self._circuits.clear()

    def fail(self, account: str, *, probe: bool) -> None:
        circuit = self._circuits.setdefault(account, _Circuit())
        if circuit.seconds and not probe:
            return  # it was asked before the circuit opened: that is known already
        circuit.failures += 1
        if circuit.failures >= FAILURES_IN_A_ROW:
            circuit.seconds = min(max(circuit.seconds * 2, _FIRST_SECONDS), _MOST_SECONDS)
            circuit.until = self._clock() + circuit.seconds
            circuit.probing = False

    def end_probe(self, account: str) -> None:
        """The probe told nothing: the next request is one."""
        if circuit := self._circuits.get(account):
            circuit.probing = False


class Pass:
    """One request to an account, to be told how it went."""

    def __init__(self, breakers: Breakers, account: str, probe: bool) -> None:
        self._breakers = breakers
        self._account = account
        self._probe = probe

    def answered(self) -> None:
        """The account has begun to answer, which is what a probe wants to know."""
        if self._probe:
            self._probe = False
            self._breakers.close(self._account)

    def succeeded(self) -> None:
        self._probe = False
        self._breakers.close(self._account)

    def failed(self, kind: ErrorKind) -> None:
        probe, self._probe = self._probe, False
        if kind in _COUNTED:
            self._breakers.fail(self._account, probe=probe)
        elif kind in (ErrorKind.REJECTED, ErrorKind.CONTEXT_TOO_LONG):
            self._breakers.close(self._account)
        elif probe:
            self._breakers.end_probe(self._account)

    def left(self) -> None:
        """Nobody waited for the end, which says nothing about the account."""
        if self._probe:
            self._probe = False
            self._breakers.end_probe(self._account)
