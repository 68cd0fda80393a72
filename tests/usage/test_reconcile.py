"""ReconcileUsage: that the ledger ends with what was billed, by entries of its own, and stays there."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiworkspace.v1 import common_pb2, org_pb2
from aiworkspace.v1 import usage_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.kit.timestamps import now, timestamp
from aiworkspace_server.llm.base import TokenUsage
from aiworkspace_server.llm.prices import PRICE_LIST, price
from aiworkspace_server.usage.ledger import Spender
from tests.support.budgets import counted, make_budget, release, reserve, settle, spender
from tests.support.ledger import check_books, read_entries
from tests.support.outcomes import NOT_FOUND, OK, PERMISSION_MISSING, named, outcome, refusal
from tests.support.people import NewPerson, Person, Place, join, make_place
from tests.support.postgres import sql
from tests.support.staff import Team
from tests.support.stores import Stores

MODEL = "openai/gpt-4o-mini"
TOKENS = common_pb2.TokenUsage(input_tokens=100, output_tokens=20)
USAGE = TokenUsage(100, 0, 0, 20, 0)
COST = price(MODEL, USAGE).nanos
MATCHED, ADJUSTED, UNKNOWN, IN_PROGRESS, NOT_BILLED = (
    pb.RECONCILED_STATE_MATCHED,
    pb.RECONCILED_STATE_ADJUSTED,
    pb.RECONCILED_STATE_UNKNOWN,
    pb.RECONCILED_STATE_IN_PROGRESS,
    pb.RECONCILED_STATE_NOT_BILLED,
)


def billed(who: Spender, tokens: common_pb2.TokenUsage = TOKENS, attempt: int = 1) -> pb.BilledRequest:
    return pb.BilledRequest(run_id=str(who.run_id), attempt=attempt, tokens=tokens)


async def reconcile(place: Place, *requests: pb.BilledRequest, **fields: Any) -> pb.ReconcileUsageResponse:
    wanted = {"org_id": place.org_id, "provider": "openai", "requests": requests, **fields}
    response: pb.ReconcileUsageResponse = await place.owner.usage.ReconcileUsage(pb.ReconcileUsageRequest(**wanted))
    return response


def found(response: pb.ReconcileUsageResponse) -> list[tuple[str, int, int, int]]:
    return [(each.run_id, each.attempt, each.state, each.difference.nanos) for each in response.requests]


async def used(app: App, who: Spender, *, attempt: int = 1, own_key: bool = True, usage: TokenUsage = USAGE) -> Spender:
    """An attempt that the organization's own key was used for, and that is settled."""
    await reserve(app, who, 10 * COST, attempt, MODEL, own_key=own_key)
    await settle(app, who, price(MODEL, usage).nanos, attempt, usage)
    return who


async def test_what_agrees_is_left_as_it_is(app: App, place: Place, stores: Stores) -> None:
    who = await used(app, spender(place))
    response = await reconcile(place, billed(who))
    assert found(response) == [(str(who.run_id), 1, MATCHED, 0)]
    assert (response.difference.nanos, response.difference.currency_code) == (0, "USD")
    assert len(await read_entries(stores, place.org_id)) == 2


@pytest.mark.parametrize("tokens", [(300, 20), (100, 5), (0, 0), (101, 20)], ids=str)
async def test_a_difference_is_written_once_and_counted(
    tokens: tuple[int, int], app: App, place: Place, stores: Stores
) -> None:
    who, budget = await used(app, spender(place, uuid4())), await make_budget(place.owner, place.org_id, 10**9)
    bill = billed(who, common_pb2.TokenUsage(input_tokens=tokens[0], output_tokens=tokens[1]))
    truth = price(MODEL, TokenUsage(tokens[0], 0, 0, tokens[1], 0)).nanos
    dry = await reconcile(place, bill, dry_run=True)
    assert len(await read_entries(stores, place.org_id)) == 2
    assert found(dry) == [(str(who.run_id), 1, ADJUSTED, truth - COST)]
    assert await reconcile(place, bill) == dry
    assert await counted(place.owner, budget) == (truth, 0)
    entries = await read_entries(stores, place.org_id)
    assert [entry.kind for entry in entries] == ["reserve", "settle", "adjust"]
    assert (entries[2].cost, entries[2].reserved) == (truth - COST, 0)
    assert entries[2].tokens[0] == tokens[0] - 100
    assert (entries[2].key_id, entries[2].run_time) == (who.key_id, who.run_time)
    assert found(await reconcile(place, bill)) == [(str(who.run_id), 1, MATCHED, 0)]
    assert len(await read_entries(stores, place.org_id)) == 3
    await check_books(stores, place.org_id)
    request = pb.ListUsageEntriesRequest(org_id=place.org_id, run_id=str(who.run_id))
    adjusted, settled = (await place.owner.usage.ListUsageEntries(request)).entries
    assert (adjusted.kind, settled.kind) == (pb.USAGE_ENTRY_KIND_ADJUST, pb.USAGE_ENTRY_KIND_SETTLE)
    assert (adjusted.tokens.input_tokens, adjusted.cost.nanos) == (tokens[0] - 100, truth - COST)
    assert (adjusted.price_version, adjusted.own_key) == (PRICE_LIST, True)
    usage = await place.owner.usage.GetUsage(pb.GetUsageRequest(org_id=place.org_id))
    assert (usage.total.request_count, usage.total.cost.nanos) == (1, truth)


async def test_a_second_bill_corrects_the_first(app: App, place: Place, stores: Stores) -> None:
    who = await used(app, spender(place))
    await reconcile(place, billed(who, common_pb2.TokenUsage(input_tokens=900, output_tokens=20)))
    response = await reconcile(place, billed(who))
    assert found(response)[0][2:] == (ADJUSTED, -800 * 150)
    assert sum(entry.cost for entry in await read_entries(stores, place.org_id)) == COST


async def test_what_was_released_and_billed_after_all_is_charged(app: App, place: Place, stores: Stores) -> None:
    who = spender(place)
    await reserve(app, who, 10 * COST, model=MODEL, own_key=True)
    await release(app, who)
    assert found(await reconcile(place, billed(who))) == [(str(who.run_id), 1, ADJUSTED, COST)]
    await check_books(stores, place.org_id)
    usage = await place.owner.usage.GetUsage(pb.GetUsageRequest(org_id=place.org_id))
    assert usage.total.cost.nanos == COST


async def test_what_is_in_progress_is_left_alone(app: App, place: Place, stores: Stores) -> None:
    who = spender(place)
    await reserve(app, who, 10 * COST, model=MODEL, own_key=True)
    assert found(await reconcile(place, billed(who))) == [(str(who.run_id), 1, IN_PROGRESS, 0)]
    assert len(await read_entries(stores, place.org_id)) == 1


async def test_every_attempt_is_compared_on_its_own(app: App, place: Place) -> None:
    who = await used(app, spender(place))
    await used(app, who, attempt=2, usage=TokenUsage(50, 0, 0, 1, 0))
    response = await reconcile(place, billed(who, attempt=2), billed(who), billed(who, attempt=3))
    assert [(each.attempt, each.state) for each in response.requests] == [(2, ADJUSTED), (1, MATCHED), (3, UNKNOWN)]


async def test_the_price_is_that_of_the_time_at_which_the_provider_was_asked(
    app: App, place: Place, stores: Stores
) -> None:
    """At night DeepSeek costs half, also for a second attempt of a run that began at noon."""
    noon, night = (datetime(2026, 11, 1, hour, tzinfo=UTC) for hour in (12, 20))
    cost, who = price("deepseek/deepseek-chat", USAGE, night).nanos, spender(place)
    assert cost != price("deepseek/deepseek-chat", USAGE, noon).nanos
    await reserve(app, who, 10 * cost, model="deepseek/deepseek-chat", own_key=True)
    await settle(app, who, cost, usage=USAGE)
    times = "UPDATE ledger_entries SET run_time = %s, create_time = %s WHERE run_id = %s"
    await sql(stores, times, noon, night, who.run_id)
    response = await reconcile(place, billed(who), provider="deepseek")
    assert found(response) == [(str(who.run_id), 1, MATCHED, 0)]


async def test_what_others_were_billed_for_is_unknown(
    app: App, place: Place, staff: dict[str, Person], stores: Stores
) -> None:
    foreign = await make_place(staff["outsider"])
    servers = await used(app, spender(place), own_key=False)
    other = await used(app, spender(foreign))
    response = await reconcile(place, billed(servers), billed(other), billed(spender(place)))
    assert [each.state for each in response.requests] == [UNKNOWN] * 3
    mine = await used(app, spender(place))
    assert [each.state for each in (await reconcile(place, billed(mine), provider="anthropic")).requests] == [UNKNOWN]
    assert {entry.kind for entry in await read_entries(stores, place.org_id)} == {"reserve", "settle"}
    assert {entry.kind for entry in await read_entries(stores, foreign.org_id)} == {"reserve", "settle"}


def during(hours: int, **fields: Any) -> dict[str, Any]:
    """A complete bill of the last hours until now."""
    time = now()
    return {
        "complete": True,
        "start_time": timestamp(time - timedelta(hours=hours)),
        "end_time": timestamp(time),
        **fields,
    }


async def test_what_a_complete_bill_lacks_cost_nothing(app: App, place: Place, stores: Stores) -> None:
    """In its time alone, at its provider alone, for the organization's own keys alone, and not while in progress."""
    moment = now() - timedelta(hours=1)
    in_bill = await used(app, spender(place, run_time=moment))
    missing = await used(app, spender(place, run_time=moment))
    earlier = moment - timedelta(hours=5)
    before = await used(app, spender(place, run_time=earlier))
    servers = await used(app, spender(place, run_time=moment), own_key=False)
    running = spender(place, run_time=moment)
    await reserve(app, running, 10 * COST, model=MODEL, own_key=True)
    elsewhere = spender(place, run_time=moment)
    await reserve(app, elsewhere, 10 * COST, model="anthropic/claude-sonnet-4-0", own_key=True)
    await settle(app, elsewhere, COST)
    budget = await make_budget(place.owner, place.org_id, 10**9, window=2)

    response = await reconcile(place, billed(in_bill), **during(2))
    assert found(response) == [
        (str(in_bill.run_id), 1, MATCHED, 0),
        (str(missing.run_id), 1, NOT_BILLED, -COST),
    ]
    assert response.difference.nanos == -COST
    left = {who.run_id for who in (in_bill, before, servers, elsewhere)}
    costs: dict[UUID, int] = {}
    for entry in await read_entries(stores, place.org_id):
        costs[entry.run_id] = costs.get(entry.run_id, 0) + entry.cost
    assert costs == {**dict.fromkeys(left, COST), missing.run_id: 0, running.run_id: 0}
    this_month = [time for time in (*[moment] * 3, earlier) if time >= now().replace(day=1, hour=0, minute=0, second=0)]
    assert (await counted(place.owner, budget))[0] == COST * len(this_month)
    again = await reconcile(place, billed(in_bill), **during(3))
    assert [each.state for each in again.requests] == [MATCHED]
    await check_books(stores, place.org_id)
    assert found(await reconcile(place, billed(missing)))[0][2:] == (ADJUSTED, COST)


BAD: dict[str, Callable[[Place, Spender], Awaitable[Any]]] = {
    "requests[1].tokens": lambda place, who: reconcile(
        place,
        billed(who),
        billed(who, common_pb2.TokenUsage(input_tokens=1, cached_input_tokens=2), attempt=2),
    ),
    "requests[0].tokens": lambda place, who: reconcile(place, billed(who, common_pb2.TokenUsage(output_tokens=10**12))),
    "requests[1]": lambda place, who: reconcile(place, billed(who), billed(who)),
    "requests[0].run_id": lambda place, who: reconcile(place, pb.BilledRequest(run_id="1", attempt=1, tokens=TOKENS)),
    "requests[0].attempt": lambda place, who: reconcile(place, billed(who, attempt=0)),
    "provider": lambda place, who: reconcile(place, billed(who), provider=""),
    "start_time": lambda place, who: reconcile(place, billed(who), complete=True, end_time=Timestamp(seconds=1)),
    "end_time": lambda place, who: reconcile(
        place, billed(who), complete=True, start_time=Timestamp(seconds=2), end_time=Timestamp(seconds=1)
    ),
}


@pytest.mark.parametrize("field", BAD)
async def test_what_cannot_be_true_is_refused_by_name_and_changes_nothing(
    field: str, app: App, place: Place, stores: Stores
) -> None:
    who = await used(app, spender(place), usage=TokenUsage(1, 0, 0, 1, 0))
    assert await named(BAD[field](place, who)) == (field,)
    assert len(await read_entries(stores, place.org_id)) == 2


async def test_no_more_than_a_thousand_are_compared_in_a_call(place: Place) -> None:
    refused = await refusal(reconcile(place, *(billed(spender(place)) for _ in range(1001))))
    assert refused
    assert refused.fields == ("requests",)


async def test_ten_at_once_write_one_difference(app: App, place: Place, new_person: NewPerson, stores: Stores) -> None:
    places = [place]  # of people who do two at the same time each, which is as many as one may
    for _ in range(4):
        admin = await new_person()
        await join(place.owner, place.org_id, admin, org_pb2.ROLE_ADMIN)
        places.append(dataclasses.replace(place, owner=admin))
    who = await used(app, spender(place))
    bill = billed(who, common_pb2.TokenUsage(input_tokens=900, output_tokens=20))
    answers = await asyncio.gather(*(reconcile(there, bill) for there in places * 2))
    assert sorted(each.requests[0].state for each in answers) == [MATCHED] * 9 + [ADJUSTED]
    assert [entry.kind for entry in await read_entries(stores, place.org_id)] == ["reserve", "settle", "adjust"]


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ("owner", OK),
        ("admin", OK),
        ("member", PERMISSION_MISSING),
        ("viewer", PERMISSION_MISSING),
        ("outsider", NOT_FOUND),
    ],
)
async def test_who_may_reconcile(who: str, expected: str, team: Team) -> None:
    request = pb.ReconcileUsageRequest(org_id=team.org_id, provider="openai")
    assert await outcome(team.somebody(who).usage.ReconcileUsage(request)) == expected


COUNTS = st.tuples(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 500)).map(
    lambda counts: common_pb2.TokenUsage(
        input_tokens=counts[0], cached_input_tokens=min(counts[:2]), output_tokens=counts[2]
    )
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bills=st.lists(st.lists(COUNTS, min_size=3, max_size=3), max_size=4))
async def test_after_any_bills_the_ledger_is_the_last_one(
    bills: list[list[common_pb2.TokenUsage]], owner: Person, app: App, stores: Stores
) -> None:
    place = await make_place(owner)
    runs = [await used(app, spender(place)) for _ in range(3)]
    last = [TOKENS] * 3
    for bill in bills:
        last = bill
        await reconcile(place, *(billed(who, tokens) for who, tokens in zip(runs, bill, strict=True)))
    truth = sum(
        price(MODEL, TokenUsage(each.input_tokens, each.cached_input_tokens, 0, each.output_tokens, 0)).nanos
        for each in last
    )
    assert sum(entry.cost for entry in await read_entries(stores, place.org_id)) == truth
    total = (await owner.usage.GetUsage(pb.GetUsageRequest(org_id=place.org_id))).total
    assert (total.cost.nanos, total.request_count) == (truth, 3)
    assert total.tokens.cached_input_tokens == sum(each.cached_input_tokens for each in last)
    await check_books(stores, place.org_id)
