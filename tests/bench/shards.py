"""Ten thousand organizations on 1, 4 and 16 machines: how evenly a hash of org_id spreads bytes and load. A simulation.

    .venv/bin/python -m tests.bench.shards                  ten thousand, seed 1
    .venv/bin/python -m tests.bench.shards --orgs 1000000   a million

Sizes are a heavy tail: the organization of rank r has r**-EXPONENT of the largest (Zipf). Load is as uneven, and not
the same: an organization's share of it is its share of bytes, times a factor of its own. Nothing is measured here, so
the figures are the same on every machine.

The hash stands for those of the databases: MD5 of the id, whose first four bytes Citus would split into ranges, 32 or
more for each machine that may come, and whose first eight MongoDB's hashed index orders. Citus itself hashes otherwise;
what matters is that neighbours and sizes do not matter. MongoDB moves chunks by size afterwards, Citus when it is told
to, but neither divides an organization: a key has one place.
"""

import argparse
import hashlib
import heapq
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from uuid import UUID

EXPONENT = 1.0
_SPREAD = 0.75  # of the logarithm of load per byte
_RANGES = 512  # of the hash, 32 for each of 16 machines
_MACHINES = (1, 4, 16)
_ISOLATED = 10  # the largest, which get machines by hand


@dataclass(frozen=True, slots=True)
class Org:
    id: UUID
    bytes: float  # shares of the whole
    load: float


@dataclass(frozen=True, slots=True)
class Balance:
    """How full machines are, each figure as a multiple of their mean."""

    most: float
    p95: float
    largest: float  # what the largest organization has alone

    @classmethod
    def of(cls, machines: Sequence[float], largest: float) -> "Balance":
        mean = sum(machines) / len(machines)
        *_, p95 = quantiles(machines, n=20, method="inclusive") if len(machines) > 1 else machines
        return cls(max(machines) / mean, p95 / mean, largest / mean)


def make_orgs(count: int, seed: int, exponent: float = EXPONENT) -> list[Org]:
    """Organizations, the largest first."""
    chance = random.Random(seed)
    sizes = [rank**-exponent for rank in range(1, count + 1)]
    loads = [size * chance.lognormvariate(0, _SPREAD) for size in sizes]
    total_bytes, total_load = sum(sizes), sum(loads)
    ids = [UUID(int=chance.getrandbits(128), version=4) for _ in range(count)]
    return [Org(id, size / total_bytes, load / total_load) for id, size, load in zip(ids, sizes, loads, strict=True)]


def range_of(org_id: UUID, ranges: int = _RANGES) -> int:
    """The range of the hash that an organization falls into."""
    digest = hashlib.md5(org_id.bytes, usedforsecurity=False).digest()
    return int.from_bytes(digest[:4]) * ranges >> 32


def by_hash(orgs: Sequence[Org], machines: int) -> Mapping[UUID, int]:
    """As both databases begin: ranges are dealt out to machines in turn."""
    return {org.id: range_of(org.id) % machines for org in orgs}


def rebalanced(orgs: Sequence[Org], machines: int) -> Mapping[UUID, int]:
    """As the rebalancers of both leave it, if they go by bytes: the fullest range first, to the emptiest machine."""
    return _fit(orgs, machines, {org.id: range_of(org.id) for org in orgs})


def isolated(orgs: Sequence[Org], machines: int, count: int = _ISOLATED) -> Mapping[UUID, int]:
    """The same, with the largest organizations in ranges of their own, which may be placed by themselves."""
    own = {org.id: _RANGES + number for number, org in enumerate(orgs[:count])}
    return _fit(orgs, machines, {org.id: own.get(org.id, range_of(org.id)) for org in orgs})


def _fit(orgs: Sequence[Org], machines: int, ranges: Mapping[UUID, int]) -> Mapping[UUID, int]:
    sizes = dict.fromkeys(ranges.values(), 0.0)
    for org in orgs:
        sizes[ranges[org.id]] += org.bytes
    heap = [(0.0, machine) for machine in range(machines)]
    homes = {}
    for place in sorted(sizes, key=lambda place: (-sizes[place], place)):
        filled, machine = heapq.heappop(heap)
        homes[place] = machine
        heapq.heappush(heap, (filled + sizes[place], machine))
    return {org_id: homes[place] for org_id, place in ranges.items()}


PLACEMENTS = {"by hash": by_hash, "rebalanced": rebalanced, f"largest {_ISOLATED} by themselves": isolated}


def balances(orgs: Sequence[Org], homes: Mapping[UUID, int], machines: int) -> tuple[Balance, Balance]:
    """How bytes and load are spread."""
    sizes, loads = [0.0] * machines, [0.0] * machines
    for org in orgs:
        sizes[homes[org.id]] += org.bytes
        loads[homes[org.id]] += org.load
    return (
        Balance.of(sizes, max(org.bytes for org in orgs)),
        Balance.of(loads, max(org.load for org in orgs)),
    )


def report(orgs: Sequence[Org], machines: Sequence[int] = _MACHINES) -> str:
    """A table, with every figure but the counts as a multiple of the mean machine."""
    head = f"{'machines':>8}  {'placement':<25}{'bytes: most':>12}{'p95':>7}{'largest':>9}"
    lines = [f"{head}{'load: most':>13}{'p95':>7}{'largest':>9}", "-" * 92]
    for number in machines:
        for name, place in PLACEMENTS.items():
            size, load = balances(orgs, place(orgs, number), number)
            lines.append(f"{number:>8}  {name:<25}{_columns(size, 12)}{_columns(load, 13)}")
    return "\n".join(lines)


def _columns(balance: Balance, width: int) -> str:
    return f"{balance.most:>{width}.2f}{balance.p95:>7.2f}{balance.largest:>9.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.shards", description="Simulates shards.")
    parser.add_argument("--orgs", type=int, default=10_000, help="how many organizations")
    parser.add_argument("--exponent", type=float, default=EXPONENT, help="of Zipf's law: 0 makes all alike")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    orgs = make_orgs(arguments.orgs, arguments.seed, arguments.exponent)
    ten, hundred = (sum(org.bytes for org in orgs[:count]) for count in (10, 100))
    print(
        f"{arguments.orgs:,} organizations, sizes by Zipf with exponent {arguments.exponent:g}, seed {arguments.seed}:"
    )
    print(f"the largest has {orgs[0].bytes:.1%} of all bytes, the first ten {ten:.1%}, the first hundred {hundred:.1%}")
    print(f"\n{report(orgs)}\n\nmultiples of the mean machine; 1.00 is perfect")


if __name__ == "__main__":
    main()
