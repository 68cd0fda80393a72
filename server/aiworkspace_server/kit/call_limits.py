"""Limits of calls by class: those of the contract, and those that organizations set for accounts and keys.

An organization may set a limit up to its ceiling, which the operator sets. A key's limit holds in addition to that of
its account.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields

from aiworkspace.v1 import options_pb2 as options

# Classes of methods that service accounts call, and that organizations may set limits of.
SETTABLE: tuple[int, ...] = (
    options.RATE_LIMIT_CLASS_READ,
    options.RATE_LIMIT_CLASS_WRITE,
    options.RATE_LIMIT_CLASS_GENERATE,
    options.RATE_LIMIT_CLASS_HEAVY,
    options.RATE_LIMIT_CLASS_UPLOAD,
)

# As it is stored: values by the name of a class, then by that of a field. What is missing was not set.
Stored = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class ClassLimit:
    """What is allowed of one class."""

    calls_per_minute: int
    calls_at_once: int
    streams_at_once: int

    def replaced(self, values: Mapping[str, int]) -> "ClassLimit":
        return ClassLimit(**{**asdict(self), **values})

    def within(self, most: "ClassLimit") -> "ClassLimit":
        return ClassLimit(*(min(getattr(self, name), getattr(most, name)) for name in FIELDS))

    def above(self, most: "ClassLimit") -> Iterator[str]:
        """Yield the fields that exceed those of another limit."""
        return (name for name in FIELDS if getattr(self, name) > getattr(most, name))


FIELDS = tuple(field.name for field in fields(ClassLimit))


@dataclass(frozen=True, slots=True)
class OwnLimit:
    """What is allowed of one class to a caller with limits of its own."""

    account: ClassLimit
    key: ClassLimit | None  # of the caller's key alone
    key_name: str  # under which calls of the key are counted: the same for all keys of its line


# By class. Those that are missing have the limits of the contract.
OwnLimits = Mapping[int, OwnLimit]


def class_name(number: int) -> str:
    """Return the name of a class for people: "generate"."""
    name = options.RateLimitClass.DESCRIPTOR.values_by_number[number].name
    return name.removeprefix("RATE_LIMIT_CLASS_").lower()


NAMES = {class_name(number): number for number in SETTABLE}


class CallLimits:
    """The limits of the contract as they hold on this server, and what may be set instead."""

    def __init__(self, factor: float, ceiling_factor: float) -> None:
        """`factor` multiplies calls per minute. A ceiling that nobody set is `ceiling_factor` times the limit."""
        self.defaults = {number: _declared(number, factor) for number in SETTABLE}
        self._usual = {
            number: ClassLimit(*(round(getattr(limit, name) * ceiling_factor) for name in FIELDS))
            for number, limit in self.defaults.items()
        }

    def ceiling(self, number: int, ceilings: Stored) -> ClassLimit:
        """Return the most that an organization with these ceilings may set of a class."""
        return self._usual[number].replaced(ceilings.get(class_name(number), {}))

    def of_account(self, number: int, ceilings: Stored, account: Stored) -> ClassLimit:
        """Return what holds for an account, whatever its keys have."""
        limit = self.defaults[number].replaced(account.get(class_name(number), {}))
        return limit.within(self.ceiling(number, ceilings))

    def resolve(self, ceilings: Stored, account: Stored, key: Stored, key_name: str) -> OwnLimits:
        """Return the limits that differ from those of the contract. A lowered ceiling holds at once."""
        found = {}
        for number in SETTABLE:
            whole, part = self.of_account(number, ceilings, account), key.get(class_name(number))
            if part or whole != self.defaults[number]:
                own = whole.replaced(part).within(whole) if part else None
                found[number] = OwnLimit(whole, own, key_name)
        return found


def _declared(number: int, factor: float) -> ClassLimit:
    given = options.RateLimitClass.DESCRIPTOR.values_by_number[number].GetOptions().Extensions
    per_minute = max(1, round(given[options.calls_per_minute] * factor))
    return ClassLimit(per_minute, given[options.calls_at_once], given[options.streams_at_once])
