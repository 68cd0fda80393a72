"""Budgets and usage follow an API key through its rotations."""

from uuid import UUID

import pytest

from aiworkspace.v1 import budget_pb2 as pb
from aiworkspace.v1 import org_pb2, usage_pb2
from aiworkspace.v1 import service_account_pb2 as keys_pb
from aiworkspace_server.app import App
from aiworkspace_server.usage.ledger import BudgetExhausted
from aiworkspace_server.usage.rebuild import rebuild
from tests.support.budgets import (
    API_KEY,
    EXHAUSTED,
    counted,
    get_budget,
    make_budget,
    release,
    reserve,
    settle,
    spend,
    spender,
)
from tests.support.ledger import check_books, get_usage, read_windows
from tests.support.outcomes import outcome
from tests.support.people import Person, Place, make_conversation
from tests.support.postgres import sql
from tests.support.runs import say
from tests.support.service_accounts import make_account, make_key, rotate_key
from tests.support.stores import Stores


async def make_robot_key(place: Place) -> keys_pb.CreateApiKeyResponse:
    user_id = await make_account(place.owner, place.org_id, role=org_pb2.ROLE_MEMBER)
    return await make_key(place.owner, place.org_id, user_id, ["workspace.read", "chat.read", "chat.send"])


async def make_line(place: Place, length: int = 3) -> list[str]:
    """Ids of a key and those that it was rotated to."""
    keys = [(await make_robot_key(place)).api_key]
    while len(keys) < length:
        keys.append((await rotate_key(place.owner, keys[-1], overlap_seconds=3600)).api_key)
    return [key.api_key_id for key in keys]


async def test_a_rotated_key_stays_in_its_budget_over_real_calls(app: App, place: Place, stores: Stores) -> None:
    """The budget has nothing left: so it is for the key and, after its rotation, for its successor."""
    made = await make_robot_key(place)
    robot = Person(app.address)
    robot.bearer.token = made.secret
    conversation_id = await make_conversation(robot, place.workspace_id, "echo/echo")
    await make_budget(place.owner, place.org_id, 0, scope=API_KEY, api_key_id=made.api_key.api_key_id)
    assert await outcome(say(robot, conversation_id, "hello")) == EXHAUSTED
    rotated = await rotate_key(place.owner, made.api_key, overlap_seconds=3600)
    assert rotated.api_key.root_api_key_id == made.api_key.root_api_key_id == made.api_key.api_key_id
    robot.bearer.token = rotated.secret
    assert await outcome(say(robot, conversation_id, "hello")) == EXHAUSTED
    (met,) = (await robot.budgets.ExplainLimit(pb.ExplainLimitRequest(workspace_id=place.workspace_id))).budgets
    assert (met.scope, met.fits) == (API_KEY, False)
    await robot.channel.close()


async def test_a_budget_for_any_key_of_a_line_counts_all_of_them(app: App, place: Place, stores: Stores) -> None:
    first, second, third = await make_line(place)
    stranger = (await make_line(place, 1))[0]
    budgets = [
        await make_budget(place.owner, place.org_id, 1000, scope=API_KEY, api_key_id=each)
        for each in (first, second, third)
    ]
    assert [each.api_key_id for each in budgets] == [first, second, third]
    own = await make_budget(place.owner, place.org_id, 1000, scope=API_KEY)
    await spend(app, spender(place, UUID(first)), 100)
    await spend(app, spender(place, UUID(second)), 20)
    await spend(app, spender(place, UUID(stranger)), 7)
    running = spender(place, UUID(third))
    await reserve(app, running, 3)
    assert [await counted(place.owner, each) for each in budgets] == [(120, 3)] * 3
    windows = {
        key[1]: sums for key, sums in (await read_windows(stores, place.org_id)).items() if str(key[0]) == own.budget_id
    }
    assert windows == {UUID(first): (120, 3), UUID(stranger): (7, 0)}
    await settle(app, running, 2)
    assert [await counted(place.owner, each) for each in budgets] == [(122, 0)] * 3
    await check_books(stores, place.org_id)


async def test_a_budget_made_after_rotations_and_a_rebuild_count_the_line(
    app: App, place: Place, stores: Stores
) -> None:
    first, second, third = await make_line(place)
    for each in (first, second):
        await spend(app, spender(place, UUID(each)), 50)
    await reserve(app, spender(place, UUID(third)), 9)
    budget = await make_budget(place.owner, place.org_id, 1000, scope=API_KEY, api_key_id=second)
    assert await counted(place.owner, budget) == (100, 9)
    async with app.db.write(UUID(place.org_id)) as tx:
        await rebuild(tx, UUID(place.org_id))
    assert await counted(place.owner, budget) == (100, 9)
    await check_books(stores, place.org_id)


async def test_usage_of_any_key_of_a_line_is_that_of_all(app: App, place: Place) -> None:
    first, second, third = await make_line(place)
    (stranger,) = await make_line(place, 1)
    for nanos, each in ((100, first), (20, second), (3, third), (7, stranger)):
        await spend(app, spender(place, UUID(each)), nanos)
    for each in (first, second, third):
        found = await get_usage(
            place.owner, place.org_id, api_key_id=each, group_by=[usage_pb2.USAGE_DIMENSION_API_KEY]
        )
        assert found.total.cost.nanos == 123
        assert {row.api_key_id: row.total.cost.nanos for row in found.rows} == {first: 100, second: 20, third: 3}
        request = usage_pb2.ListUsageEntriesRequest(org_id=place.org_id, api_key_id=each)
        entries = (await place.owner.usage.ListUsageEntries(request)).entries
        assert {entry.api_key_id for entry in entries} == {first, second, third}
    assert (await get_usage(place.owner, place.org_id, api_key_id=stranger)).total.cost.nanos == 7


async def test_a_line_that_is_deleted_amid_a_run_is_released_from_its_budget(
    app: App, place: Place, stores: Stores
) -> None:
    first, second = await make_line(place, 2)
    budget = await make_budget(place.owner, place.org_id, 1000, scope=API_KEY, api_key_id=first)
    running = spender(place, UUID(second))
    await reserve(app, running, 40)
    await sql(stores, "DELETE FROM api_keys WHERE org_id = %s", place.org_id)
    await settle(app, running, 30)
    await reserve(app, running, 5, attempt=2)
    assert await counted(place.owner, budget) == (30, 5)
    await release(app, running, attempt=2)
    assert (await get_budget(place.owner, budget)).status.reserved.nanos == 0
    await check_books(stores, place.org_id)


async def test_a_budget_for_each_member_holds_however_many_keys_there_are(app: App, place: Place) -> None:
    """What BudgetService recommends: other than for each key, more keys are not more money."""
    budget = await make_budget(place.owner, place.org_id, 100, scope=pb.BUDGET_SCOPE_MEMBER)
    assert budget.hard
    keys = [UUID((await make_line(place, 1))[0]) for _ in range(2)]
    await spend(app, spender(place, keys[0]), 90)
    await reserve(app, spender(place, keys[1]), 10)
    with pytest.raises(BudgetExhausted):
        await reserve(app, spender(place, keys[1]), 1)
