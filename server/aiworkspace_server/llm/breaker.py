"""Circuit breakers: skip what keeps failing for a while, then probe it with one request.

Each request passes two. One is for the provider account and all organizations: it counts only failures that no input
can provoke, and opens only if several organizations met them. The other is for one model and one organization: it
counts every failure, so that an organization that provokes failures blocks only itself. `rules` lists which failure
counts where.

Breakers are local to the process and start closed.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from .base import ErrorKind
from .rules import RULES, Counts

FAILURES_IN_A_ROW = 5
LEAST_ORGS = 2  # organizations that must fail before an account's circuit opens for all
_FIRST_SECONDS = 15.0
_MOST_SECONDS = 120.0
_PROBE_SECONDS = 10.0  # after which a probe without a result no longer blocks other requests
_MOST_CIRCUITS = 10_000


# Of an account's circuit: the account. Of a model's: account, model and organization.
_Key = str | tuple[str, str, UUID]


@dataclass(frozen=True, slots=True)
class Asked:
    """Account, model and organization of a request."""

    account: str
    model: str
    org_id: UUID


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    orgs: set[UUID] = field(default_factory=set)  # organizations that met the failures; no more than LEAST_ORGS
    seconds: float = 0  # how long it stays open this time; 0: it is closed
    until: float = 0
    probe_until: float = 0  # until when a probe is in flight

    def is_open(self, time: float) -> bool:
        return bool(self.seconds) and time < max(self.until, self.probe_until)


class Breakers:
    """The circuits of everything that failed recently."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._circuits: dict[_Key, _Circuit] = {}

    def is_open(self, asked: Asked) -> bool:
        """Return whether a circuit of the request is open."""
        return any(self._is_open(key) for key in _keys(asked))

    def enter(self, asked: Asked) -> "Pass | None":
        """Return a pass for one request; None while a circuit is open. The first request after that is a probe."""
        if self.is_open(asked):
            return None
        probed = [key for key in _keys(asked) if (circuit := self._circuits.get(key)) and circuit.seconds]
        for key in probed:
            self._circuits[key].probe_until = self._clock() + _PROBE_SECONDS
        return Pass(self, asked, frozenset(probed))

    def count_open(self) -> Counter[str]:
        """Return how many circuits of each account are open: its own, and those of its models for an organization."""
        return Counter(_account(key) for key in self._circuits if self._is_open(key))

    def forget(self) -> None:
        """Close all circuits."""
        self._circuits.clear()

    def close(self, key: _Key) -> None:
        self._circuits.pop(key, None)

    def fail(self, key: _Key, org_id: UUID, least_orgs: int, *, probe: bool) -> None:
        if len(self._circuits) >= _MOST_CIRCUITS and key not in self._circuits:
            del self._circuits[next(iter(self._circuits))]
        circuit = self._circuits.setdefault(key, _Circuit())
        if circuit.seconds and not probe:
            return  # the request began before the circuit opened, so its failure says nothing new
        circuit.failures += 1
        if len(circuit.orgs) < least_orgs:
            circuit.orgs.add(org_id)
        if circuit.failures >= FAILURES_IN_A_ROW and len(circuit.orgs) >= least_orgs:
            circuit.seconds = min(max(circuit.seconds * 2, _FIRST_SECONDS), _MOST_SECONDS)
            circuit.until, circuit.probe_until = self._clock() + circuit.seconds, 0

    def end_probe(self, key: _Key) -> None:
        """End a probe without a result. The next request is a probe."""
        if circuit := self._circuits.get(key):
            circuit.probe_until = 0

    def _is_open(self, key: _Key) -> bool:
        circuit = self._circuits.get(key)
        return circuit is not None and circuit.is_open(self._clock())


class Pass:
    """One request, which reports its outcome to the circuits."""

    def __init__(self, breakers: Breakers, asked: Asked, probed: frozenset[_Key]) -> None:
        self._breakers = breakers
        self._asked = asked
        self._probed = probed  # the circuits that this request is a probe of

    def answered(self) -> None:
        """Report that the model has begun to answer, which is enough for a probe to succeed."""
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
        """Report that the request was cancelled, which counts neither as success nor as failure."""
        for key in self._take_probed():
            self._breakers.end_probe(key)

    def _take_probed(self) -> frozenset[_Key]:
        probed, self._probed = self._probed, frozenset()
        return probed


def _keys(asked: Asked) -> tuple[_Key, _Key]:
    """Return the keys of the account's circuit and of the organization's circuit for the model."""
    return asked.account, (asked.account, asked.model, asked.org_id)


def _account(key: _Key) -> str:
    return key if isinstance(key, str) else key[0]
