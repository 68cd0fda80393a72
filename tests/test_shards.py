"""The simulation of shards: that what it prints is what its placements are."""

from uuid import UUID

import pytest

from tests.bench.shards import (
    PLACEMENTS,
    Balance,
    Org,
    balances,
    by_hash,
    isolated,
    make_orgs,
    range_of,
    rebalanced,
    report,
)

COUNT = 10_000


@pytest.fixture(scope="module")
def orgs() -> list[Org]:
    return make_orgs(COUNT, seed=1)


def test_sizes_are_those_of_zipf(orgs: list[Org]) -> None:
    assert sum(org.bytes for org in orgs) == pytest.approx(1)
    assert sum(org.load for org in orgs) == pytest.approx(1)
    assert [orgs[0].bytes / orgs[rank - 1].bytes for rank in (2, 10, COUNT)] == pytest.approx([2, 10, COUNT])
    assert orgs[0].bytes == pytest.approx(0.1022, abs=1e-4)  # one over the harmonic number of 10,000
    assert len({org.id for org in orgs}) == COUNT


def test_the_same_seed_gives_the_same_figures_and_another_others(orgs: list[Org]) -> None:
    assert report(make_orgs(COUNT, seed=1)) == report(orgs) != report(make_orgs(COUNT, seed=2))


def test_ranges_divide_the_hash_evenly() -> None:
    # The first bytes of the MD5 of sixteen zero bytes are 4ae71336.
    assert [range_of(UUID(int=0), ranges) for ranges in (1, 16, 256)] == [0, 0x4, 0x4A]
    filled = [0] * 32
    for org in make_orgs(32_000, seed=3):
        filled[range_of(org.id, 32)] += 1
    assert min(filled) > 850
    assert max(filled) < 1150


def test_balance_is_in_multiples_of_the_mean() -> None:
    assert Balance.of([1.0] * 10 + [12.0], largest=6.0) == Balance(6.0, 3.25, 3.0)
    assert Balance.of([5.0], largest=1.0) == Balance(1.0, 1.0, 0.2)


@pytest.mark.parametrize("name", PLACEMENTS)
def test_every_organization_has_one_home_and_alike_ones_are_spread_evenly(name: str) -> None:
    alike = make_orgs(COUNT, seed=4, exponent=0)
    homes = PLACEMENTS[name](alike, 4)
    assert homes.keys() == {org.id for org in alike}
    assert set(homes.values()) == {0, 1, 2, 3}
    size, _ = balances(alike, homes, 4)
    assert size.most < 1.05
    assert size.largest == pytest.approx(4 / COUNT)


def test_what_is_in_a_range_stays_together_unless_it_is_isolated(orgs: list[Org]) -> None:
    for place in (by_hash, rebalanced):
        homes = place(orgs, 16)
        assert len({(range_of(org.id), homes[org.id]) for org in orgs}) == len({range_of(org.id) for org in orgs})
    homes = isolated(orgs, 16)
    assert len({homes[org.id] for org in orgs[:10]}) == 10, "none of the largest is beside another"


def test_the_heavy_tail_is_what_limits_sixteen_machines(orgs: list[Org]) -> None:
    most = {name: balances(orgs, place(orgs, 16), 16)[0].most for name, place in PLACEMENTS.items()}
    hashed, moved, alone = most.values()
    assert hashed > moved >= alone
    assert alone == pytest.approx(16 * orgs[0].bytes), "a machine that has the largest alone is fuller than the mean"
    assert [round(balances(orgs, by_hash(orgs, number), number)[0].most, 2) for number in (1, 4, 16)] == [1, 1.28, 2.47]
