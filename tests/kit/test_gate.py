"""The gate: how many it lets in, in which order, and that nothing stays behind."""

import asyncio
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace_server.kit.gate import Gate, GateFull, Place

ONE, OTHER, THIRD = UUID(int=1), UUID(int=2), UUID(int=3)


def enter(gate: Gate, *orgs: UUID, service: str = "openai") -> list[Place]:
    return [gate.enter(service, org_id) for org_id in orgs]


async def test_organizations_take_turns() -> None:
    gate = Gate(1, 10, 100)
    inside, *waiting = enter(gate, ONE, ONE, ONE, ONE, OTHER, OTHER, THIRD)
    order = []
    while not all(place.inside for place in waiting):
        inside.leave()
        inside = next(place for place in waiting if place.inside and place not in order)
        order.append(inside)
    assert [place.org_id for place in order] == [ONE, OTHER, THIRD, ONE, OTHER, ONE]
    assert [place for place in order if place.org_id == ONE] == waiting[:3], "first come, first served"
    inside.leave()
    assert gate.idle


async def test_an_organization_that_has_its_share_holds_up_nobody() -> None:
    gate = Gate(10, 2, 100)
    first, second, third = enter(gate, ONE, ONE, ONE)
    assert (first.inside, second.inside, third.inside) == (True, True, False)
    elsewhere = gate.enter("anthropic", ONE)
    assert not elsewhere.inside, "the share is of all services together"
    assert gate.enter("openai", OTHER).inside
    first.leave()
    assert third.inside
    second.leave()
    assert elsewhere.inside


async def test_who_waits_hears_of_it() -> None:
    gate = Gate(1, 1, 1)
    inside, waiting = enter(gate, ONE, OTHER)
    hearing = asyncio.create_task(waiting.wait())
    await asyncio.sleep(0)
    assert not hearing.done()
    inside.leave()
    await asyncio.wait_for(hearing, 60)


async def test_a_full_queue_takes_nobody_but_those_who_were_let_in_before() -> None:
    gate = Gate(1, 10, 2)
    places = enter(gate, ONE, ONE, OTHER)
    with pytest.raises(GateFull):
        gate.enter("openai", OTHER)
    assert gate.enter("anthropic", OTHER).inside
    places.append(gate.enter("openai", ONE, bounded=False))
    assert gate.waiting("openai") == 3


async def test_a_backlog_of_one_organization_keeps_nobody_else_out() -> None:
    gate = Gate(4, 2, 10)
    enter(gate, ONE, ONE, OTHER, OTHER, *[ONE] * 10)
    with pytest.raises(GateFull):
        gate.enter("openai", ONE)
    places = enter(gate, *[THIRD] * 5)
    with pytest.raises(GateFull):
        gate.enter("openai", THIRD)
    assert not any(place.inside for place in places)


async def test_who_gives_up_leaves_nothing_behind() -> None:
    gate = Gate(1, 10, 10)
    inside, first, second = enter(gate, ONE, OTHER, OTHER)
    first.leave()
    first.leave()
    inside.leave()
    assert second.inside
    second.leave()
    second.leave()
    assert gate.idle


async def test_each_of_several_processes_takes_its_share() -> None:
    gate = Gate(8, 4, 10)
    gate.resize(4)
    places = enter(gate, ONE, ONE, OTHER)
    assert [place.inside for place in places] == [True, False, True]
    gate.resize(1)
    assert places[1].inside
    gate.resize(100)
    for place in places:
        place.leave()
    assert gate.enter("openai", ONE).inside, "one at least"


@given(st.lists(st.tuples(st.sampled_from(["openai", "local"]), st.sampled_from([ONE, OTHER, THIRD]), st.booleans())))
async def test_whatever_happens_the_limits_hold_and_nobody_waits_for_nothing(
    steps: list[tuple[str, UUID, bool]],
) -> None:
    gate = Gate(3, 2, 1000)
    places: list[Place] = []
    for service, org_id, leave in steps:
        if leave and places:
            places.pop(0).leave()
        else:
            places.append(gate.enter(service, org_id))
        inside = [place for place in places if place.inside]
        for each in ("openai", "local"):
            assert sum(place.service == each for place in inside) <= 3
        for org in (ONE, OTHER, THIRD):
            assert sum(place.org_id == org for place in inside) <= 2
        for place in places:
            full = sum(other.service == place.service for other in inside) == 3
            used = sum(other.org_id == place.org_id for other in inside) == 2
            assert place.inside or full or used
    for place in places:
        place.leave()
    assert gate.idle
