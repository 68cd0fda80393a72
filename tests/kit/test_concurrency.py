"""Limits of concurrent work: what they grant, in which order, and that no slot is left behind."""

import asyncio
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace_server.kit.concurrency import ConcurrencyLimiter, KeyedSemaphore, QueueFull, Slot

ONE, OTHER, THIRD = UUID(int=1), UUID(int=2), UUID(int=3)


def acquire(limiter: ConcurrencyLimiter, *orgs: UUID, service: str = "openai") -> list[Slot]:
    return [limiter.acquire(service, org_id) for org_id in orgs]


async def test_organizations_take_turns() -> None:
    limiter = ConcurrencyLimiter(1, 10, 100)
    granted, *waiting = acquire(limiter, ONE, ONE, ONE, ONE, OTHER, OTHER, THIRD)
    order = []
    while not all(slot.granted for slot in waiting):
        granted.release()
        granted = next(slot for slot in waiting if slot.granted and slot not in order)
        order.append(granted)
    assert [slot.org_id for slot in order] == [ONE, OTHER, THIRD, ONE, OTHER, ONE]
    assert [slot for slot in order if slot.org_id == ONE] == waiting[:3], "first come, first served"
    granted.release()
    assert limiter.idle


async def test_organization_at_its_limit_does_not_block_others() -> None:
    limiter = ConcurrencyLimiter(10, 2, 100)
    first, second, third = acquire(limiter, ONE, ONE, ONE)
    assert (first.granted, second.granted, third.granted) == (True, True, False)
    elsewhere = limiter.acquire("anthropic", ONE)
    assert not elsewhere.granted, "the share is of all services together"
    assert limiter.acquire("openai", OTHER).granted
    first.release()
    assert third.granted
    second.release()
    assert elsewhere.granted


async def test_wait_returns_when_the_slot_is_granted() -> None:
    limiter = ConcurrencyLimiter(1, 1, 1)
    granted, waiting = acquire(limiter, ONE, OTHER)
    hearing = asyncio.create_task(waiting.wait())
    await asyncio.sleep(0)
    assert not hearing.done()
    granted.release()
    await asyncio.wait_for(hearing, 60)


async def test_full_queue_refuses_bounded_callers_only() -> None:
    limiter = ConcurrencyLimiter(1, 10, 2)
    slots = acquire(limiter, ONE, ONE, OTHER)
    with pytest.raises(QueueFull):
        limiter.acquire("openai", OTHER)
    assert limiter.acquire("anthropic", OTHER).granted
    slots.append(limiter.acquire("openai", ONE, bounded=False))
    assert limiter.waiting("openai") == 3


async def test_backlog_of_one_organization_leaves_room_for_others() -> None:
    limiter = ConcurrencyLimiter(4, 2, 10)
    acquire(limiter, ONE, ONE, OTHER, OTHER, *[ONE] * 10)
    with pytest.raises(QueueFull):
        limiter.acquire("openai", ONE)
    slots = acquire(limiter, *[THIRD] * 5)
    with pytest.raises(QueueFull):
        limiter.acquire("openai", THIRD)
    assert not any(slot.granted for slot in slots)


async def test_release_while_queued_leaves_the_limiter_idle() -> None:
    limiter = ConcurrencyLimiter(1, 10, 10)
    granted, first, second = acquire(limiter, ONE, OTHER, OTHER)
    first.release()
    first.release()
    granted.release()
    assert second.granted
    second.release()
    second.release()
    assert limiter.idle


async def test_resize_divides_the_limits_by_processes() -> None:
    limiter = ConcurrencyLimiter(8, 4, 10)
    limiter.resize(4)
    slots = acquire(limiter, ONE, ONE, OTHER)
    assert [slot.granted for slot in slots] == [True, False, True]
    limiter.resize(1)
    assert slots[1].granted
    limiter.resize(100)
    for slot in slots:
        slot.release()
    assert limiter.acquire("openai", ONE).granted, "one at least"


@given(st.lists(st.tuples(st.sampled_from(["openai", "local"]), st.sampled_from([ONE, OTHER, THIRD]), st.booleans())))
async def test_limits_hold_and_no_slot_waits_below_them(
    steps: list[tuple[str, UUID, bool]],
) -> None:
    limiter = ConcurrencyLimiter(3, 2, 1000)
    slots: list[Slot] = []
    for service, org_id, release in steps:
        if release and slots:
            slots.pop(0).release()
        else:
            slots.append(limiter.acquire(service, org_id))
        granted = [slot for slot in slots if slot.granted]
        for each in ("openai", "local"):
            assert sum(slot.service == each for slot in granted) <= 3
        for org in (ONE, OTHER, THIRD):
            assert sum(slot.org_id == org for slot in granted) <= 2
        for slot in slots:
            full = sum(other.service == slot.service for other in granted) == 3
            used = sum(other.org_id == slot.org_id for other in granted) == 2
            assert slot.granted or full or used
    for slot in slots:
        slot.release()
    assert limiter.idle


async def test_keyed_semaphore_hands_over_in_order_and_counts_each_key_by_itself() -> None:
    semaphore, order = KeyedSemaphore(1), []

    async def hold(name: str, key: str = "one") -> None:
        await semaphore.acquire(key)
        order.append(name)
        await asyncio.sleep(0)
        semaphore.release(key)

    assert semaphore.try_acquire("one")
    assert not semaphore.try_acquire("one")
    waiting = [asyncio.create_task(hold(name)) for name in ("first", "second", "third")]
    await hold("elsewhere", "other")
    assert order == ["elsewhere"]
    semaphore.release("one")
    await asyncio.gather(*waiting)
    assert order == ["elsewhere", "first", "second", "third"]
    assert semaphore.try_acquire("one")


@pytest.mark.parametrize("granted", [False, True])
async def test_keyed_semaphore_cancelled_waiter_passes_its_turn_on(granted: bool) -> None:
    semaphore = KeyedSemaphore(1)
    assert semaphore.try_acquire("key")
    cancelled, next_one = (asyncio.create_task(semaphore.acquire("key")) for _ in range(2))
    await asyncio.sleep(0)
    if granted:
        semaphore.release("key")
        cancelled.cancel()  # before it could run
    else:
        cancelled.cancel()
        await asyncio.sleep(0)
        semaphore.release("key")
    await asyncio.wait_for(next_one, 60)
    assert cancelled.cancelled()
    semaphore.release("key")
    assert semaphore.try_acquire("key")
