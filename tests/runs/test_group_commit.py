"""Runs that end at the same time: written together, and each for itself all the same."""

import asyncio
from dataclasses import asdict
from datetime import timedelta
from typing import cast
from uuid import UUID, uuid4

from pymongo.errors import DocumentTooLarge

from aiworkspace_server.app import App
from aiworkspace_server.conversations.store import EndedRun
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.kit.timestamps import now
from aiworkspace_server.runs.group_commit import GroupCommit
from aiworkspace_server.runs.models import Cost, Run, Settlement, Usage
from aiworkspace_server.runs.store import RunStore
from aiworkspace_server.runs.transactions import UnsettledRun
from aiworkspace_server.usage.ledger import Spender, count_alone
from tests.support.budgets import API_KEY, MEMBER, MONTH, ORG, USAGE, WORKSPACE, make_budget, reserve, spender
from tests.support.ledger import check_books, nothing_reserved, read_entries
from tests.support.people import Person, Place, make_place
from tests.support.postgres import sql, until_blocked
from tests.support.runs import say
from tests.support.stores import Stores

LIMIT = 1_000_000


def unsettled(who: Spender, nanos: int | None, attempt: int = 1) -> UnsettledRun:
    """A run with one attempt; without `nanos` it used nothing."""
    cost = Cost(nanos=nanos or 0, currency="USD", version="test")
    usage = None if nanos is None else cast(Usage, asdict(USAGE))
    return UnsettledRun(who.org_id, who.run_id, [Settlement(number=attempt, usage=usage, cost=cost)])


async def states_of(stores: Stores, org_id: str) -> set[str]:
    """The states of an organization's claims."""
    return {state for (state,) in await sql(stores, "SELECT DISTINCT state FROM run_claims WHERE org_id = %s", org_id)}


async def test_books_are_exact_when_two_servers_end_the_runs_of_three_organizations(
    owner: Person, app: App, stores: Stores
) -> None:
    """Of several members, with and without keys, begun in this hour and the last, while others begin."""
    places = [await make_place(owner) for _ in range(3)]
    for place in places:
        for scope in (ORG, WORKSPACE, MEMBER, API_KEY):
            await make_budget(owner, place.org_id, LIMIT, scope=scope)
        await make_budget(owner, place.org_id, LIMIT, scope=MEMBER, window=MONTH)
    people = [owner, *[await Person(app.address).register() for _ in range(2)]]
    keys = uuid4(), uuid4(), None
    servers = [GroupCommit(app.db, app.mongo) for _ in range(2)]

    async def run(number: int) -> None:
        begun = now() - timedelta(hours=number % 2)
        who = spender(places[number % 3], keys[number % 7 % 3], people[number % 5 % 3].user_id, begun)
        await reserve(app, who, 40 + number % 5)
        ended = unsettled(who, None if number % 11 == 0 else 30 + number % 7)
        assert await servers[number // 3 % 2].ledger.do(ended) == []

    await asyncio.gather(*(run(number) for number in range(150)))
    for place in places:
        await check_books(stores, place.org_id)
        assert await nothing_reserved(stores, place.org_id)
        assert await states_of(stores, place.org_id) == {"closed"}
        assert len(await read_entries(stores, place.org_id)) == 100


async def test_an_organization_whose_ledger_is_locked_holds_up_no_other(
    owner: Person, app: App, stores: Stores
) -> None:
    locked, free = await make_place(owner), await make_place(owner)
    ledger = app.engine.deps.group_commit.ledger
    runs = [spender(place) for place in (locked, free, locked, free)]
    for who in runs:
        await reserve(app, who, 10)
    async with app.db.write(UUID(locked.org_id)) as tx:
        await count_alone(tx, UUID(locked.org_id))
        ending = [asyncio.create_task(ledger.do(unsettled(who, 5))) for who in runs]
        assert await asyncio.gather(*ending[1::2]) == [[], []]
        late = spender(free)
        await reserve(app, late, 10)
        assert await ledger.do(unsettled(late, 5)) == []
        await until_blocked(stores, *ending[0::2], of_ledger=True)
        assert await states_of(stores, locked.org_id) == {"open"}
    assert await asyncio.gather(*ending[0::2]) == [[], []]
    for place in (locked, free):
        await check_books(stores, place.org_id)
        assert await states_of(stores, place.org_id) == {"closed"}


async def test_the_claim_of_a_run_with_other_reservations_stays_open_beside_those_that_close(
    owner: Person, app: App, stores: Stores, place: Place
) -> None:
    ledger, runs = app.engine.deps.group_commit.ledger, [spender(place) for _ in range(3)]
    for who in runs:
        await reserve(app, who, 10)
    await reserve(app, runs[1], 10, attempt=2)
    others = await asyncio.gather(*(ledger.do(unsettled(who, 5)) for who in runs))
    assert [[(each.attempt, each.model) for each in found] for found in others] == [[], [(2, "echo/echo")], []]
    states = "SELECT run_id, state FROM run_claims WHERE org_id = %s"
    assert dict(await sql(stores, states, place.org_id)) == {
        runs[0].run_id: "closed",
        runs[1].run_id: "open",
        runs[2].run_id: "closed",
    }
    assert await ledger.do(unsettled(runs[1], 5, attempt=2)) == []
    assert await states_of(stores, place.org_id) == {"closed"}
    await check_books(stores, place.org_id)


async def _running(app: App, place: Place, takeovers: int = 0) -> Run:
    """A run in progress, of which there is only the document."""
    answered = await RunStore(app.mongo, UUID(place.org_id)).find(
        UUID((await say(place.owner, place.conversation_id, "hello"))[0].run_id)
    )
    assert answered
    own = {name: value for name, value in answered.items() if name != "org_id"}
    run = cast(Run, {**own, "_id": new_id(), "state": "running", "takeovers": takeovers, "end_id": None})
    await RunStore(app.mongo, UUID(place.org_id)).insert(run)
    return cast(Run, {**run, "state": "completed", "takeovers": 0, "end_id": new_id(), "last_events": []})


async def test_of_ends_that_are_stored_together_each_is_ones_own_or_lost(place: Place, app: App) -> None:
    finish, org_id = app.engine.deps.group_commit.ends.do, UUID(place.org_id)
    runs = [await _running(app, place, takeovers) for takeovers in (0, 1, 0)]
    assert await asyncio.gather(*(finish((org_id, run)) for run in runs)) == [True, False, True]
    assert await asyncio.gather(*(finish((org_id, run)) for run in runs)) == [True, False, True], "not acknowledged"
    stored = [await RunStore(app.mongo, org_id).find(run["_id"]) for run in runs]
    assert [run["state"] if run else None for run in stored] == ["completed", "running", "completed"]
    elsewhere = [(uuid4(), run) for run in runs]
    assert not any(await asyncio.gather(*(finish(each) for each in elsewhere))), "of other organizations"


async def test_an_end_that_cannot_be_stored_keeps_no_other_from_it(place: Place, app: App) -> None:
    finish, org_id = app.engine.deps.group_commit.ends.do, UUID(place.org_id)
    runs = [await _running(app, place) for _ in range(3)]
    runs[1]["last_events"] = [bytes(17 * 2**20)]  # MongoDB takes documents of up to 16 MiB
    outcomes = await asyncio.gather(*(finish((org_id, run)) for run in runs), return_exceptions=True)
    assert outcomes[0::2] == [True, True]
    assert isinstance(outcomes[1], DocumentTooLarge)


async def test_conversations_whose_runs_end_together_are_free(owner: Person, app: App) -> None:
    places = [await make_place(owner) for _ in range(3)]
    ended = []
    for place in places:
        where, run_id = {"_id": UUID(place.conversation_id)}, new_id()
        conversations = app.mongo.tenant("conversations", UUID(place.org_id))
        await conversations.update(where, {"$set": {"active_run_id": run_id, "size_bytes": 5}})
        ended.append(EndedRun(UUID(place.org_id), where["_id"], run_id, 7))
    free = app.engine.deps.group_commit.conversations.do
    await asyncio.gather(free(ended[0]), free(ended[1]._replace(run_id=new_id())), free(ended[2]))
    found = [
        await app.mongo.tenant("conversations", each.org_id).find_one({"_id": each.conversation_id}) for each in ended
    ]
    assert [(each["active_run_id"], each["size_bytes"]) for each in found if each] == [
        (None, 12),
        (ended[1].run_id, 5),
        (None, 12),
    ]
