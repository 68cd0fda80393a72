"""Circuit breakers: what keeps failing is not asked for a while, then tried with one request.

There are two for each request. One belongs to the account at the provider, whoever asks: only failures that no input
can provoke count for it, and only when several organizations met them. The other belongs to one model as one
organization asks for it: every failure counts there, so that an organization that provokes failures shuts out itself
alone. `rules` lists which failure counts where.

The breakers are this process's own: each process finds out by itself, and forgets when it ends.
"""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from uuid import UUID

from .base import ErrorKind
from .rules import RULES, Counts

FAILURES_IN_A_ROW = 5
LEAST_ORGS = 2  # that have to fail before an account is closed to all
_FIRST_SECONDS = 15.0
_MOST_SECONDS = 120.0
_PROBE_SECONDS = 10.0  # after which a probe without a result no longer keeps others out
_MOST_CIRCUITS = 10_000


@dataclass(frozen=True, slots=True)
class Asked:
    """Who is asked, for what, by whom."""

    account: str
    model: str
    org_id: UUID


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    orgs: set[UUID] = field(default_factory=set)  # that met the failures; no more than matter
    seconds: float = 0  # how long it stays open this time; 0: it is closed
    until: float = 0
    probe_until: float = 0  # until when one request is being tried

    def is_open(self, time: float) -> bool:
        return bool(self.seconds) and time < max(self.until, self.probe_until)


class Breakers:
    """The circuits of everything that failed recently."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._circuits: dict[Hashable, _Circuit] = {}

    def is_open(self, asked: Asked) -> bool:
        """Whether the model is not to be asked now by this organization."""
        return any(self._is_open(key) for key in _keys(asked))

    def enter(self, asked: Asked) -> "Pass | None":
        """Return a pass for one request; None while a circuit is open. The first request after that is a probe."""
        if self.is_open(asked):
            return None
        probed = [key for key in _keys(asked) if (circuit := self._circuits.get(key)) and circuit.seconds]
        for key in probed:
            self._circuits[key].probe_until = self._clock() + _PROBE_SECONDS
        return Pass(self, asked, frozenset(probed))

    def forget(self) -> None:
        """Close all circuits."""
        self._circuits.clear()

    def close(self, key: Hashable) -> None:
        self._circuits.pop(key, None)

    def fail(self, key: Hashable, org_id: UUID, least_orgs: int, *, probe: bool) -> None:
        if len(self._circuits) >= _MOST_CIRCUITS and key not in self._circuits:
            del self._circuits[next(iter(self._circuits))]
        circuit = self._circuits.setdefault(key, _Circuit())
        if circuit.seconds and not probe:
            return  # it was asked before the circuit opened: that is known already
        circuit.failures += 1
        if len(circuit.orgs) < least_orgs:
            circuit.orgs.add(org_id)
        if circuit.failures >= FAILURES_IN_A_ROW and len(circuit.orgs) >= least_orgs:
            circuit.seconds = min(max(circuit.seconds * 2, _FIRST_SECONDS), _MOST_SECONDS)
            circuit.until, circuit.probe_until = self._clock() + circuit.seconds, 0

    def end_probe(self, key: Hashable) -> None:
        """The probe told nothing: the next request is one."""
        if circuit := self._circuits.get(key):
            circuit.probe_until = 0

    def _is_open(self, key: Hashable) -> bool:
        circuit = self._circuits.get(key)
        return circuit is not None and circuit.is_open(self._clock())


class Pass:
    """One request, which reports its outcome to the circuits."""

    def __init__(self, breakers: Breakers, asked: Asked, probed: frozenset[Hashable]) -> None:
        self._breakers = breakers
        self._asked = asked
        self._probed = probed  # the circuits that this request is a probe of

    def answered(self) -> None:
        """The model has begun to answer, which is what a probe wants to know."""
        for key in self._take_probed():
            self._breakers.close(key)

    def succeeded(self) -> None:
        self._probed = frozenset()
        for key in _keys(self._asked):
            self._breakers.close(key)

    def failed(self, kind: ErrorKind) -> None:
        counts, probed = RULES[kind].counts, self._take_probed()
        account, model = _keys(self._asked)
        match counts:
            case Counts.ACCOUNT:
                self._breakers.fail(account, self._asked.org_id, LEAST_ORGS, probe=account in probed)
                self._breakers.fail(model, self._asked.org_id, 1, probe=model in probed)
            case Counts.MODEL:
                if account in probed:
                    self._breakers.end_probe(account)
                self._breakers.fail(model, self._asked.org_id, 1, probe=model in probed)
            case Counts.ANSWERED:
                for key in (account, model):
                    self._breakers.close(key)
            case Counts.NOTHING:
                for key in probed:
                    self._breakers.end_probe(key)

    def left(self) -> None:
        """The request was cancelled, which counts neither as success nor as failure."""
        for key in self._take_probed():
            self._breakers.end_probe(key)

    def _take_probed(self) -> frozenset[Hashable]:
        probed, self._probed = self._probed, frozenset()
        return probed


def _keys(asked: Asked) -> tuple[Hashable, Hashable]:
    """Of the account's circuit, and of the model's as the organization asks for it."""
    return asked.account, (asked.account, asked.model, asked.org_id)
