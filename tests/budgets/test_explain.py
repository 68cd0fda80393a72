"""ExplainLimit: that it says what the call then does, and does nothing itself."""

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiworkspace.v1 import budget_pb2 as pb
from aiworkspace.v1 import chat_pb2, model_pb2, workspace_pb2
from aiworkspace_server.app import App, running
from aiworkspace_server.llm.base import ModelRequest, TokenUsage, Turn
from aiworkspace_server.llm.prices import price
from aiworkspace_server.llm.tokens import bound_input
from aiworkspace_server.settings import Settings
from tests.standin import Script, Standin
from tests.support.budgets import (
    API_KEY,
    EXHAUSTED,
    MEMBER,
    MONTH,
    ORG,
    WORKSPACE,
    make_budget,
    reserve,
    spend,
    spender,
    usd,
)
from tests.support.ledger import read_entries
from tests.support.outcomes import NOT_FOUND, OK, named, outcome
from tests.support.people import Person, Place, make_conversation, make_place, make_workspace, people
from tests.support.postgres import sql
from tests.support.runs import say
from tests.support.service_accounts import make_robot
from tests.support.settings import store_settings
from tests.support.staff import Team
from tests.support.stores import Stores, other_databases

CONTENT = "how much may this cost?"
TOKENS_IN = bound_input(ModelRequest("", "", [Turn("user", CONTENT)], 0))


async def explain(person: Person, workspace_id: str, **fields: Any) -> pb.ExplainLimitResponse:
    request = pb.ExplainLimitRequest(workspace_id=workspace_id, **fields)
    response: pb.ExplainLimitResponse = await person.budgets.ExplainLimit(request)
    return response


async def test_without_budgets_there_is_the_rate_limit_alone(place: Place) -> None:
    said = await explain(place.owner, place.workspace_id, input_tokens=10, max_output_tokens=20)
    assert (said.allowed, said.model, list(said.budgets)) == (True, "echo/echo", [])
    assert said.reservation == usd(price("echo/echo", TokenUsage(10, 0, 0, 20, 0)).nanos)
    (rate,) = said.rate_limits
    assert (rate.name, rate.fits, rate.remaining <= rate.limit) == ("generate calls of the caller", True, True)


async def test_the_model_is_the_workspaces_unless_one_is_named(place: Place) -> None:
    workspace_id = await make_workspace(place.owner, place.org_id, default_model="openai/gpt-4o-mini")
    assert (await explain(place.owner, workspace_id)).model == "openai/gpt-4o-mini"
    assert (await explain(place.owner, workspace_id, model="echo/echo")).model == "echo/echo"
    assert await named(explain(place.owner, workspace_id, model="nobody/nothing")) == ("model",)


async def test_no_limit_of_the_answer_means_the_most_that_the_server_allows(place: Place, settings: Settings) -> None:
    said = await explain(place.owner, place.workspace_id, input_tokens=1)
    assert said.reservation.nanos == price("echo/echo", TokenUsage(1, 0, 0, settings.max_output_tokens, 0)).nanos


async def test_every_budget_that_counts_the_call_is_there_with_where_it_stands(
    app: App, place: Place, stores: Stores
) -> None:
    owner, org_id = place.owner, place.org_id
    other = await make_workspace(owner, org_id)
    budgets = [
        await make_budget(owner, org_id, 100, window=MONTH),
        await make_budget(owner, org_id, 90, scope=WORKSPACE),
        await make_budget(owner, org_id, 80, scope=MEMBER, hard=False),
        await make_budget(owner, org_id, 70, scope=MEMBER, user_id=owner.user_id),
    ]
    await make_budget(owner, org_id, 60, scope=WORKSPACE, workspace_id=other)
    await make_budget(owner, org_id, 50, scope=API_KEY)
    await spend(app, spender(place), 30)
    await reserve(app, spender(place), 20)
    said = await explain(owner, place.workspace_id)
    assert [each.budget_id for each in said.budgets] == [each.budget_id for each in budgets]
    assert [(each.scope, each.window, each.limit, each.hard) for each in said.budgets] == [
        (each.scope, each.window, each.limit, each.hard) for each in budgets
    ]
    assert {(each.status.settled.nanos, each.status.reserved.nanos) for each in said.budgets} == {(30, 20)}
    assert [each.status.remaining.nanos for each in said.budgets] == [50, 40, 30, 20]
    assert (said.allowed, {each.fits for each in said.budgets}) == (False, {False})
    elsewhere = await explain(owner, other)
    assert [each.status.settled.nanos for each in elsewhere.budgets] == [30, 0, 30, 30, 0]
    assert len(await read_entries(stores, org_id)) == 3


async def test_a_key_meets_its_own_budget(app: App, place: Place, stores: Stores) -> None:
    permissions = ["workspace.read", "chat.read", "chat.send"]
    robot = await make_robot(stores, app.address, place.org_id, "member", permissions)
    budget = await make_budget(place.owner, place.org_id, 10**12, scope=API_KEY)
    await say(robot, await make_conversation(robot, place.workspace_id, "echo/echo"), "hello")
    (met,) = (await explain(robot, place.workspace_id)).budgets
    assert met.budget_id == budget.budget_id
    assert met.status.settled.nanos > 0
    assert not (await explain(place.owner, place.workspace_id)).budgets
    await robot.channel.close()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    slack=st.sampled_from([-1, 0, 1, 10**9]),
    spent=st.integers(0, 10**6),
    scope=st.sampled_from([ORG, WORKSPACE, MEMBER]),
    hard=st.booleans(),
    output=st.sampled_from([1, 50]),
)
async def test_the_call_does_what_was_said(
    slack: int,
    spent: int,
    scope: pb.BudgetScope.ValueType,
    hard: bool,
    output: int,
    owner: Person,
    app: App,
    stores: Stores,
) -> None:
    place = await make_place(owner)
    amount = price("echo/echo", TokenUsage(TOKENS_IN, 0, 0, output, 0)).nanos
    await spend(app, spender(place), spent)
    await make_budget(owner, place.org_id, spent + amount + slack, scope=scope, hard=hard)
    said = await explain(owner, place.workspace_id, input_tokens=TOKENS_IN, max_output_tokens=output)
    assert (said.reservation.nanos, said.budgets[0].fits) == (amount, slack >= 0)
    parameters = chat_pb2.ModelParameters(max_output_tokens=output)
    done = await outcome(say(owner, place.conversation_id, CONTENT, parameters=parameters))
    assert done == (OK if said.allowed else EXHAUSTED)
    reserved = [entry.reserved for entry in await read_entries(stores, place.org_id) if entry.kind == "reserve"]
    assert reserved == [spent, amount] if said.allowed else [spent]


@pytest.mark.usefixtures("one_minute")
async def test_it_names_the_fallback_model_that_the_call_goes_to(
    place: Place, stores: Stores, standin: Standin
) -> None:
    """As when the limit of the first model is reached, and when the workspace's model is gone."""
    owner = place.owner
    standin.script("gpt-4o-mini", Script(tokens=("ok",)))
    limit = model_pb2.ModelLimit(model="echo/echo", requests_per_minute=1)
    policy = model_pb2.ModelPolicy(fallback_models=["openai/gpt-4o-mini"], limits=[limit])
    await owner.models.SetOrgModelPolicy(model_pb2.SetOrgModelPolicyRequest(org_id=place.org_id, policy=policy))
    models = ["echo/echo", "openai/gpt-4o-mini", "openai/gpt-4o-mini"]
    for model in models:
        said = await explain(owner, place.workspace_id, input_tokens=TOKENS_IN, max_output_tokens=50)
        assert (said.allowed, said.model) == (True, model)
        events = await say(owner, place.conversation_id, CONTENT)
        assert events[-1].run_completed.message.model == model
    await sql(stores, "UPDATE workspaces SET default_model = 'openai/gone' WHERE id = %s", place.workspace_id)
    assert (await explain(owner, place.workspace_id)).model == "openai/gpt-4o-mini"
    assert (await say(owner, place.conversation_id, CONTENT))[-1].run_completed.message.model == "openai/gpt-4o-mini"
    assert await named(explain(owner, place.workspace_id, model="openai/gone")) == ("model",)


@pytest.mark.usefixtures("one_minute")
async def test_it_says_when_the_rate_limit_is_reached(stores: Stores) -> None:
    values = store_settings(await other_databases(stores, "explained")) | {"rate_limit_factor": 0.1}
    async with running(Settings.model_validate(values), migrating=True) as app, people(app.address) as new_person:
        here = await make_place(await new_person())
        before = (await explain(here.owner, here.workspace_id)).rate_limits[0]
        assert (before.remaining, before.fits) == (before.limit, True)
        for _ in range(before.limit):
            await say(here.owner, here.conversation_id, "hello")
        said = await explain(here.owner, here.workspace_id)
        assert (said.rate_limits[0].remaining, said.rate_limits[0].fits, said.allowed) == (0, False, False)
        assert said.rate_limits[0].reset_time.ToDatetime() > before.reset_time.ToDatetime()
        assert await outcome(say(here.owner, here.conversation_id, "hello")) == "RESOURCE_EXHAUSTED RATE_LIMITED"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"input_tokens": -1}, "input_tokens"),
        ({"input_tokens": 100_000_001}, "input_tokens"),
        ({"max_output_tokens": -1}, "max_output_tokens"),
        ({"model": "a\0"}, "model"),
    ],
    ids=str,
)
async def test_what_breaks_a_rule_is_refused_by_name(fields: dict[str, Any], field: str, place: Place) -> None:
    assert await named(explain(place.owner, place.workspace_id, **fields)) == (field,)


async def test_only_who_may_ask_a_model_is_told(team: Team) -> None:
    hidden = await make_workspace(team.owner, team.org_id, visibility=workspace_pb2.WORKSPACE_VISIBILITY_MEMBERS)
    assert await outcome(explain(team.member, hidden)) == NOT_FOUND
    assert await outcome(explain(team.outsider, hidden)) == NOT_FOUND
    assert await outcome(explain(team.owner, str(uuid4()))) == NOT_FOUND
