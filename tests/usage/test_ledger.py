"""The ledger on the real database: that entries, roll-ups and budgets say the same, in whatever order things happen."""

import asyncio
from collections import Counter
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from aiworkspace_server.app import App
from aiworkspace_server.kit.errors import InvalidArgument
from aiworkspace_server.kit.timestamps import now
from aiworkspace_server.llm.prices import Price
from aiworkspace_server.usage.ledger import BudgetExhausted, Spender, count_alone, reservation
from aiworkspace_server.usage.rebuild import rebuild
from tests.support.budgets import (
    API_KEY,
    MEMBER,
    MONTH,
    ORG,
    WORKSPACE,
    counted,
    make_budget,
    release,
    reserve,
    settle,
    spend,
    spender,
    tokens,
)
from tests.support.ledger import check_books, nothing_reserved, read_entries, read_windows
from tests.support.people import Person, Place, make_place, make_workspace
from tests.support.postgres import sql
from tests.support.stores import Stores

LIMIT = 1_000


async def make_budgets(owner: Person, place: Place, *, hard: bool) -> None:
    """Six that overlap in all ways."""
    for fields in (
        {"scope": ORG},
        {"scope": ORG, "window": MONTH},
        {"scope": WORKSPACE},
        {"scope": WORKSPACE, "workspace_id": place.workspace_id, "window": MONTH},
        {"scope": MEMBER},
        {"scope": API_KEY},
    ):
        await make_budget(owner, place.org_id, LIMIT, hard=hard, **fields)


async def test_a_reservation_is_ended_once(app: App, place: Place, stores: Stores) -> None:
    who = spender(place)
    budget = await make_budget(place.owner, place.org_id, LIMIT)
    await reserve(app, who, 300)
    assert await counted(place.owner, budget) == (0, 300)
    assert sorted(
        await asyncio.gather(*(settle(app, who, 200) for _ in range(25)), *(release(app, who) for _ in range(25)))
    )[-2:] == [False, True]
    assert await counted(place.owner, budget) in ((200, 0), (0, 0))
    assert len(await read_entries(stores, place.org_id)) == 2
    await check_books(stores, place.org_id)


async def test_what_was_never_reserved_is_not_ended(app: App, place: Place, stores: Stores) -> None:
    assert not await settle(app, spender(place), 100)
    assert not await release(app, spender(place))
    assert await read_entries(stores, place.org_id) == []


async def test_a_refused_reservation_leaves_nothing(app: App, place: Place, stores: Stores) -> None:
    await make_budget(place.owner, place.org_id, LIMIT)
    with pytest.raises(BudgetExhausted):
        await reserve(app, spender(place), LIMIT + 1)
    assert await read_entries(stores, place.org_id) == []
    assert await read_windows(stores, place.org_id) == {}
    await reserve(app, spender(place), LIMIT)


def test_a_model_without_a_price_is_refused_before_anything_is_reserved() -> None:
    with pytest.raises(InvalidArgument, match="there is no price for 'openai/gpt-9000'"):
        reservation("openai/gpt-9000", 1, 1, now())


async def test_every_entry_says_by_which_prices(app: App, place: Place, stores: Stores) -> None:
    who = spender(place)
    await reserve(app, who, 10)
    await reserve(app, who, 10, attempt=2)
    await settle(app, who, 5)
    await release(app, who, attempt=2)
    rows = await sql(
        stores, "SELECT kind, price_version FROM ledger_entries WHERE org_id = %s ORDER BY id", place.org_id
    )
    assert rows == [("reserve", "test"), ("reserve", "test"), ("settle", "test"), ("release", "none")]


@pytest.mark.parametrize("statement", ["UPDATE ledger_entries SET cost_nanos = 0", "DELETE FROM ledger_entries"])
async def test_the_server_cannot_change_what_is_written(statement: str, app: App, place: Place) -> None:
    await spend(app, spender(place), 100)
    async with app.db.write(UUID(place.org_id)) as tx:
        with pytest.raises(ProgrammingError, match="permission denied"):
            await tx.execute(text(statement))


async def test_budgets_and_rollups_hold_at_a_hundred_runs_at_once(owner: Person, app: App, stores: Stores) -> None:
    """Six hard budgets at a time, in two workspaces, with and without keys, attempts failing and succeeding."""
    place = await make_place(owner)
    other = Place(owner, place.org_id, await make_workspace(owner, place.org_id), "")
    await make_budgets(owner, place, hard=True)
    keys = uuid4(), uuid4(), None
    over, refused = asyncio.Event(), 0

    async def run(number: int) -> None:
        nonlocal refused
        who = spender((place, other)[number % 2], keys[number % 3])
        try:
            await reserve(app, who, 37 + number % 5)
        except BudgetExhausted:
            refused += 1
            return
        await (release(app, who) if number % 4 == 0 else settle(app, who, 30 + number % 7))

    async def sample() -> int:
        samples = 0
        while not over.is_set():
            samples += 1
            for settled, reserved in (await read_windows(stores, place.org_id)).values():
                assert settled + reserved <= LIMIT
        return samples

    sampling = asyncio.create_task(sample())
    await asyncio.gather(*(run(number) for number in range(100)))
    over.set()
    assert await sampling > 1
    assert 0 < refused < 100
    await check_books(stores, place.org_id)
    assert await nothing_reserved(stores, place.org_id)


async def test_rebuilding_changes_nothing_that_is_right(app: App, place: Place, stores: Stores) -> None:
    await make_budgets(place.owner, place, hard=False)
    for number in range(4):
        await spend(app, spender(place, uuid4() if number % 2 else None), 100 + number)
    await reserve(app, spender(place), 50)
    before = await read_windows(stores, place.org_id)
    await rebuild_now(app, place)
    assert await read_windows(stores, place.org_id) == before != {}
    await check_books(stores, place.org_id)


async def rebuild_now(app: App, place: Place) -> None:
    async with app.db.write(UUID(place.org_id)) as tx:
        await rebuild(tx, UUID(place.org_id))


async def test_rebuilding_makes_right_what_is_wrong(app: App, place: Place, stores: Stores) -> None:
    await make_budgets(place.owner, place, hard=False)
    for _ in range(3):
        await spend(app, spender(place), 100)
    await reserve(app, spender(place), 50)
    async with app.db.write(UUID(place.org_id)) as tx:
        await tx.execute(text("UPDATE usage_rollups SET cost_nanos = 7, model = 'nobody' WHERE period = 'day'"))
        await tx.execute(text("DELETE FROM usage_rollups WHERE period = 'hour'"))
        await tx.execute(text("UPDATE budget_windows SET settled_nanos = 1, reserved_nanos = reserved_nanos + 1"))
    with pytest.raises(AssertionError):
        await check_books(stores, place.org_id)
    await rebuild_now(app, place)
    await check_books(stores, place.org_id)


async def test_rebuilding_and_new_budgets_amid_runs_miss_nothing(app: App, place: Place, stores: Stores) -> None:
    async def run(number: int) -> None:
        who = spender(place, uuid4() if number % 3 == 0 else None)
        await reserve(app, who, 10)
        if number % 5:
            await settle(app, who, 7)

    async def disturb(number: int) -> None:
        await make_budget(place.owner, place.org_id, 10**9, scope=(ORG, WORKSPACE, MEMBER, API_KEY)[number % 4])
        await rebuild_now(app, place)

    await asyncio.gather(*(run(number) for number in range(60)), *(disturb(number) for number in range(8)))
    await check_books(stores, place.org_id)
    entries = await read_entries(stores, place.org_id)
    assert Counter(entry.kind for entry in entries) == {"reserve": 60, "settle": 48}
    assert sum(entry.reserved for entry in entries) == 12 * 10


# What may happen to a run: which one, and how much of what.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "retry", "settle", "release", "adjust"]),
        st.integers(0, 5),
        st.integers(0, LIMIT // 2),
    ),
    max_size=25,
)


class Story:
    """Runs of an organization, and what the tests expect of them."""

    def __init__(self, app: App, place: Place) -> None:
        self._app = app
        self._place = place
        self._runs: list[tuple[Spender, int]] = []  # with the number of the last attempt

    async def take(self, step: str, number: int, nanos: int) -> None:
        if step == "reserve" or not self._runs:
            await self._reserve(spender(self._place, UUID(int=number) if number % 2 else None), nanos, 1)
            return
        who, attempt = self._runs[number % len(self._runs)]
        if step == "retry":
            await self._reserve(who, nanos, attempt + 1)
        elif step == "settle":
            await settle(self._app, who, nanos // 2, attempt)
        elif step == "release":
            await release(self._app, who, attempt)
        else:
            await self._adjust(who, attempt, nanos - LIMIT // 4)

    async def _reserve(self, who: Spender, nanos: int, attempt: int) -> None:
        try:
            await reserve(self._app, who, nanos, attempt)
        except BudgetExhausted:
            return
        self._runs = [run for run in self._runs if run[0] != who] + [(who, attempt)]

    async def _adjust(self, who: Spender, attempt: int, nanos: int) -> None:
        async with self._app.db.write(who.org_id) as tx:
            await count_alone(tx, who.org_id)
            await self._app.ledger.adjust(tx, who.run_id, attempt, tokens(output_tokens=nanos), Price(nanos, "test"))

    async def end(self) -> None:
        for who, last in self._runs:
            for attempt in range(1, last + 1):
                await release(self._app, who, attempt)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, hard=st.booleans())
async def test_entries_rollups_and_budgets_agree_after_anything(
    steps: list[tuple[str, int, int]], hard: bool, owner: Person, app: App, stores: Stores
) -> None:
    place = await make_place(owner)
    await make_budgets(owner, place, hard=hard)
    story = Story(app, place)
    for step in steps:
        await story.take(*step)
    await check_books(stores, place.org_id)
    await story.end()
    await check_books(stores, place.org_id)
    assert await nothing_reserved(stores, place.org_id)
