"""Budgets as a resource: who may do what with them, and what they say."""

import uuid
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace.v1 import budget_pb2 as pb
from aiworkspace.v1 import common_pb2, org_pb2, service_account_pb2
from aiworkspace_server.app import App
from tests.support.budgets import (
    API_KEY,
    DAY,
    MEMBER,
    MONTH,
    ORG,
    WORKSPACE,
    get_budget,
    make_budget,
    spend,
    spender,
    usd,
)
from tests.support.outcomes import ETAG_MISMATCH, NOT_FOUND, OK, PERMISSION_MISSING, named, outcome, refusal
from tests.support.pagination import few, read_all
from tests.support.people import Person, Place, make_org, make_place, make_workspace
from tests.support.staff import Team


def update(budget: pb.Budget, *paths: str, etag: str = "", **values: Any) -> pb.UpdateBudgetRequest:
    changed = pb.Budget(org_id=budget.org_id, budget_id=budget.budget_id, etag=etag, **values)
    return pb.UpdateBudgetRequest(budget=changed, update_mask=FieldMask(paths=paths))


async def list_budgets(person: Person, org_id: str) -> list[pb.Budget]:
    return list((await person.budgets.ListBudgets(pb.ListBudgetsRequest(org_id=org_id))).budgets)


async def test_a_budget_is_made_read_changed_and_deleted(place: Place) -> None:
    owner = place.owner
    made = await make_budget(owner, place.org_id, 5 * 10**9, window=MONTH, alert_percents=[80, 50])
    assert (made.org_id, made.scope, made.window, made.hard) == (place.org_id, ORG, MONTH, True)
    assert (made.limit, list(made.alert_percents), made.etag) == (usd(5 * 10**9), [50, 80], "1")
    start, end = made.status.start_time.ToDatetime(), made.status.end_time.ToDatetime()
    assert (start.day, start.hour, end.day, (end - start).days in range(28, 32)) == (1, 0, 1, True)
    assert start <= made.create_time.ToDatetime() < end
    assert (made.status.settled, made.status.reserved, made.status.remaining) == (usd(0), usd(0), made.limit)
    assert await get_budget(owner, made) == made
    assert await list_budgets(owner, place.org_id) == [made]

    changed = (await owner.budgets.UpdateBudget(update(made, "hard", "limit", limit=usd(7)))).budget
    assert (changed.limit, changed.hard, list(changed.alert_percents)) == (usd(7), False, [50, 80])
    assert (changed.etag, changed.create_time, changed.status.remaining) == ("2", made.create_time, usd(7))
    assert await get_budget(owner, made) == changed

    delete = pb.DeleteBudgetRequest(org_id=place.org_id, budget_id=made.budget_id)
    await owner.budgets.DeleteBudget(delete)
    assert await outcome(owner.budgets.DeleteBudget(delete)) == NOT_FOUND
    assert await outcome(get_budget(owner, made)) == NOT_FOUND
    assert await list_budgets(owner, place.org_id) == []


async def test_a_day_is_a_day(place: Place) -> None:
    status = (await make_budget(place.owner, place.org_id, 1)).status
    assert status.end_time.seconds - status.start_time.seconds == 86400
    assert status.start_time.seconds % 86400 == 0


async def test_a_budget_that_is_each_ones_own_has_no_status(place: Place) -> None:
    for scope in (WORKSPACE, MEMBER, API_KEY):
        assert not (await make_budget(place.owner, place.org_id, 1, scope=scope)).HasField("status")
    whose = {"scope": WORKSPACE, "workspace_id": place.workspace_id}
    budget = await make_budget(place.owner, place.org_id, 1, **whose)
    assert budget.HasField("status")
    assert budget.workspace_id == place.workspace_id


async def test_the_same_request_makes_one_budget(place: Place) -> None:
    request_id = str(uuid.uuid4())
    made = [await make_budget(place.owner, place.org_id, 5, request_id=request_id) for _ in range(2)]
    assert made[0] == made[1]
    assert len(await list_budgets(place.owner, place.org_id)) == 1


async def test_whose_budget_it_is_has_to_be_the_organizations(
    place: Place, owner: Person, staff: dict[str, Person]
) -> None:
    foreign = await make_place(staff["outsider"])
    account = await foreign.owner.service_accounts.CreateServiceAccount(
        service_account_pb2.CreateServiceAccountRequest(org_id=foreign.org_id, name="Robot", role=org_pb2.ROLE_MEMBER)
    )
    key = await foreign.owner.service_accounts.CreateApiKey(
        service_account_pb2.CreateApiKeyRequest(
            org_id=foreign.org_id, user_id=account.service_account.user_id, name="Key", permissions=["org.read"]
        )
    )
    for scope, field, foreign_id in (
        (WORKSPACE, "workspace_id", foreign.workspace_id),
        (MEMBER, "user_id", foreign.owner.user_id),
        (MEMBER, "user_id", account.service_account.user_id),
        (API_KEY, "api_key_id", key.api_key.api_key_id),
    ):
        for some_id in (foreign_id, str(uuid.uuid4())):
            call = make_budget(owner, place.org_id, 5, scope=scope, **{field: some_id})
            refused = await refusal(call)
            assert refused
            assert (refused.code, refused.metadata) == ("NOT_FOUND", {"field": field})
    assert await list_budgets(owner, place.org_id) == []


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"scope": 0}, "scope"),
        ({"scope": 9}, "scope"),
        ({"window": 0}, "window"),
        ({"limit": common_pb2.Money(currency_code="EUR", nanos=5)}, "limit.currency_code"),
        ({"limit": common_pb2.Money(nanos=5)}, "limit.currency_code"),
        ({"limit": usd(-1)}, "limit.nanos"),
        ({"limit": None}, "limit"),
        ({"alert_percents": [0]}, "alert_percents[0]"),
        ({"alert_percents": [101]}, "alert_percents[0]"),
        ({"alert_percents": [50, 50]}, "alert_percents"),
        ({"alert_percents": range(1, 12)}, "alert_percents"),
        ({"scope": WORKSPACE, "workspace_id": "1"}, "workspace_id"),
    ],
    ids=str,
)
async def test_what_breaks_a_rule_is_refused_by_name(fields: dict[str, Any], wrong: str, place: Place) -> None:
    wanted = {"org_id": place.org_id, "scope": ORG, "window": DAY, "limit": usd(5), **fields}
    assert await named(place.owner.budgets.CreateBudget(pb.CreateBudgetRequest(**wanted))) == (wrong,)


async def test_an_id_that_does_not_go_with_the_scope_is_refused(place: Place) -> None:
    for scope, field, value in (
        (ORG, "workspace_id", place.workspace_id),
        (MEMBER, "workspace_id", place.workspace_id),
        (WORKSPACE, "user_id", place.owner.user_id),
    ):
        assert await named(make_budget(place.owner, place.org_id, 5, scope=scope, **{field: value})) == (field,)


async def test_updates_keep_the_rules(place: Place) -> None:
    owner, budget = place.owner, await make_budget(place.owner, place.org_id, 5, alert_percents=[10])
    budgets = owner.budgets
    assert await named(budgets.UpdateBudget(update(budget, "limit"))) == ("budget.limit.currency_code",)
    assert await named(budgets.UpdateBudget(update(budget, "limit", limit=usd(-5)))) == ("budget.limit.nanos",)
    assert await named(budgets.UpdateBudget(update(budget, "spent"))) == ("update_mask",)
    assert await outcome(budgets.UpdateBudget(update(budget, "hard", etag="7"))) == ETAG_MISMATCH
    assert await get_budget(owner, budget) == budget
    changed = (await budgets.UpdateBudget(update(budget, etag="1", limit=usd(9)))).budget
    assert (changed.limit, changed.hard, list(changed.alert_percents)) == (usd(9), True, [10])
    changed = (await budgets.UpdateBudget(update(budget, "alert_percents", "scope", scope=MEMBER))).budget
    assert (changed.scope, list(changed.alert_percents)) == (ORG, [])


async def test_a_foreign_budget_is_not_known(place: Place, staff: dict[str, Person]) -> None:
    budget, foreign = await make_budget(place.owner, place.org_id, 5), staff["outsider"]
    budget.org_id = await make_org(foreign)
    assert await outcome(get_budget(foreign, budget)) == NOT_FOUND
    assert await outcome(foreign.budgets.UpdateBudget(update(budget, "hard"))) == NOT_FOUND
    delete = pb.DeleteBudgetRequest(org_id=budget.org_id, budget_id=budget.budget_id)
    assert await outcome(foreign.budgets.DeleteBudget(delete)) == NOT_FOUND


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
async def test_who_may_manage_budgets(who: str, expected: str, team: Team) -> None:
    person, budget = team.somebody(who), await make_budget(team.owner, team.org_id, 5)
    assert await outcome(make_budget(person, team.org_id, 5)) == expected
    assert await outcome(get_budget(person, budget)) == expected
    assert await outcome(person.budgets.UpdateBudget(update(budget, "hard"))) == expected


@few
@given(size=st.integers(1, 6))
async def test_pages_of_budgets_add_up(size: int, owner: Person) -> None:
    org_id = await make_org(owner)
    made = [await make_budget(owner, org_id, number) for number in range(5)]
    request = pb.ListBudgetsRequest(org_id=org_id)
    assert await read_all(owner.budgets.ListBudgets, request, "budgets", size) == made


async def test_lists_say_what_is_spent(app: App, place: Place) -> None:
    other = await make_workspace(place.owner, place.org_id)
    budgets = [
        await make_budget(place.owner, place.org_id, 100),
        await make_budget(place.owner, place.org_id, 30, scope=WORKSPACE, workspace_id=place.workspace_id, hard=False),
        await make_budget(place.owner, place.org_id, 100, scope=WORKSPACE, workspace_id=other),
        await make_budget(place.owner, place.org_id, 100, scope=MEMBER),
    ]
    await spend(app, spender(place), 40)
    found = await list_budgets(place.owner, place.org_id)
    assert [each.budget_id for each in found] == [each.budget_id for each in budgets]
    assert [each.status.settled.nanos for each in found] == [40, 40, 0, 0]
    assert [each.status.remaining.nanos for each in found] == [60, 0, 100, 0]
