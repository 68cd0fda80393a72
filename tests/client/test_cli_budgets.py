"""aiws budgets and aiws limits."""

import json

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from aiworkspace.v1 import budget_pb2 as pb
from aiworkspace.v1 import usage_pb2
from tests.client.conftest import Aiws
from tests.client.scripted import ScriptedServer, answer, answers, failure
from tests.support.budgets import usd

END = Timestamp(seconds=1_800_000_000)


STATUS = pb.BudgetStatus(
    end_time=END, settled=usd(12_345_000_000), reserved=usd(8_203_000), remaining=usd(37_646_797_000)
)
BUDGET = pb.Budget(
    org_id="org-1",
    budget_id="budget-1",
    scope=pb.BUDGET_SCOPE_ORG,
    window=pb.BUDGET_WINDOW_MONTH,
    limit=usd(50 * 10**9),
    hard=True,
    status=STATUS,
)
EACH = pb.Budget(
    budget_id="budget-2", scope=pb.BUDGET_SCOPE_API_KEY, window=pb.BUDGET_WINDOW_DAY, limit=usd(250_000_000)
)
ONE = pb.Budget(
    budget_id="budget-3",
    scope=pb.BUDGET_SCOPE_MEMBER,
    window=pb.BUDGET_WINDOW_DAY,
    limit=usd(1),
    user_id="user-9",
    status=STATUS,
)


@pytest.mark.usefixtures("signed_in")
async def test_budgets_are_listed_with_what_is_spent(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("BudgetService.ListBudgets", answer(pb.ListBudgetsResponse(budgets=[BUDGET, EACH, ONE])))
    ran = await aiws("budgets", "list")
    assert ran.returncode == 0, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert lines[0] == ["BUDGET", "WHOSE", "WINDOW", "KIND", "LIMIT", "SPENT", "RESERVED", "LEFT", "UNTIL"]
    assert lines[1][:8] == ["budget-1", "org", "month", "hard", "50.00", "USD", "12.345", "USD"]
    assert lines[1][8:12] == ["0.008203", "USD", "37.646797", "USD"]
    assert lines[2] == ["budget-2", "api-key", "each", "day", "soft", "0.25", "USD"]
    assert lines[3][:7] == ["budget-3", "member", "user-9", "day", "soft", "0.000000001", "USD"]
    assert server.calls[-1].request.org_id == "org-1"
    found = json.loads((await aiws("budgets", "list", "--json")).stdout)
    assert (found[0]["limit"], found[0]["hard"]) == ({"currency_code": "USD", "nanos": "50000000000"}, True)


@pytest.mark.usefixtures("signed_in")
async def test_a_budget_is_made_and_deleted(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("BudgetService.CreateBudget", answer(pb.CreateBudgetResponse(budget=BUDGET)))
    ran = await aiws("budgets", "create", "50", "--alert", "50", "--alert", "90")
    assert (ran.returncode, ran.stdout) == (0, "budget-1\n")
    assert "50.00 USD a month" in ran.stderr
    request = server.calls[-1].request
    assert (request.org_id, request.scope, request.window) == ("org-1", pb.BUDGET_SCOPE_ORG, pb.BUDGET_WINDOW_MONTH)
    assert (request.limit, request.hard, list(request.alert_percents)) == (usd(50 * 10**9), True, [50, 90])
    assert (await aiws("budgets", "create", "1,200.50")).returncode == 0
    assert server.calls[-1].request.limit == usd(1_200_500_000_000)
    for whose, field in (("workspace", "workspace_id"), ("member", "user_id"), ("api-key", "api_key_id")):
        arguments = ("0.25", "--per", "day", "--for", whose, "--id", "id-1", "--soft")
        assert (await aiws("budgets", "create", *arguments)).returncode == 0
        request = server.calls[-1].request
        assert (request.limit, request.hard, request.window) == (usd(250_000_000), False, pb.BUDGET_WINDOW_DAY)
        assert request.scope == pb.BudgetScope.Value(f"BUDGET_SCOPE_{whose.upper().replace('-', '_')}")
        ids = {name: getattr(request, name) for name in ("workspace_id", "user_id", "api_key_id")}
        assert {name for name, value in ids.items() if value} == {field}
    server.script("BudgetService.DeleteBudget", answer(pb.DeleteBudgetResponse()))
    assert (await aiws("budgets", "delete", "budget-1", stdin="n\n")).returncode == 1
    assert not server.called("BudgetService.DeleteBudget")
    assert (await aiws("budgets", "delete", "budget-1", "--yes")).returncode == 0
    assert server.calls[-1].request.budget_id == "budget-1"


@pytest.mark.usefixtures("signed_in")
async def test_only_what_is_given_of_a_budget_is_changed(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("BudgetService.UpdateBudget", answer(pb.UpdateBudgetResponse(budget=BUDGET)))
    named = pb.Budget(org_id="org-1", budget_id="budget-1")
    cases: list[tuple[tuple[str, ...], pb.Budget, list[str]]] = [
        (("--limit", "60", "--soft"), pb.Budget(limit=usd(60 * 10**9)), ["limit", "hard"]),
        (("--hard", "--alert", "90"), pb.Budget(hard=True, alert_percents=[90]), ["hard", "alert_percents"]),
        (("--limit", "0", "--no-alerts"), pb.Budget(limit=usd(0)), ["limit", "alert_percents"]),
    ]
    for options, budget, mask in cases:
        ran = await aiws("budgets", "update", "budget-1", *options)
        assert ran.returncode == 0, ran.stderr
        budget.MergeFrom(named)
        request = server.calls[-1].request
        assert (request.budget, list(request.update_mask.paths)) == (budget, mask)
    calls = len(server.calls)
    for options in ((), ("--limit", "-1"), ("--limit", "99999999999"), ("--alert", "5", "--no-alerts")):
        assert (await aiws("budgets", "update", "budget-1", *options)).returncode == 2
    assert len(server.calls) == calls


@pytest.mark.usefixtures("signed_in")
@pytest.mark.parametrize(
    "arguments",
    [
        ("much",),
        ("nan",),
        ("0,5",),
        ("1,50",),
        ("1_000",),
        ("1e3",),
        ("0.0000000001",),
        ("1e999999",),
        ("0." + 40 * "1",),
        ("99999999999",),
        ("--", "-1"),
        ("5", "--id", "workspace-1"),
        ("5", "--per", "week"),
        ("5", "--alert", "0"),
        ("5", "--alert", "101"),
    ],
    ids=" ".join,
)
async def test_a_budget_that_makes_no_sense_is_wrong_usage(
    arguments: tuple[str, ...], server: ScriptedServer, aiws: Aiws
) -> None:
    assert (await aiws("budgets", "create", *arguments)).returncode == 2
    assert not server.called("BudgetService.CreateBudget")


@pytest.mark.usefixtures("signed_in")
async def test_limits_are_explained(server: ScriptedServer, aiws: Aiws) -> None:
    met = pb.BudgetLimit(
        budget_id="budget-1",
        scope=pb.BUDGET_SCOPE_ORG,
        window=pb.BUDGET_WINDOW_MONTH,
        limit=BUDGET.limit,
        hard=True,
        status=STATUS,
        fits=True,
    )
    explained = pb.ExplainLimitResponse(
        allowed=True,
        model="echo/echo",
        reservation=usd(1_200_000),
        budgets=[met],
        rate_limits=[pb.RateLimit(name="generate calls of the caller", limit=120, remaining=7, fits=True)],
    )
    server.script("BudgetService.ExplainLimit", answer(explained))
    ran = await aiws("limits", "--model", "echo/echo", "--input", "500", "--output", "9", "-w", "workspace-1")
    text = " ".join(ran.stdout.split())
    assert "allowed yes model echo/echo may cost up to 0.0012 USD" in text
    assert "budget-1 org month hard 50.00 USD 12.345 USD 0.008203 USD 37.646797 USD" in text
    assert "generate calls of the caller 120 7 yes" in text
    request = server.calls[-1].request
    assert (request.workspace_id, request.model) == ("workspace-1", "echo/echo")
    assert (request.input_tokens, request.max_output_tokens) == (500, 9)
    assert json.loads((await aiws("limits", "-w", "workspace-1", "--json")).stdout)["allowed"] is True


@pytest.mark.usefixtures("signed_in")
async def test_a_refusal_for_want_of_money_says_where_to_look(server: ScriptedServer, aiws: Aiws) -> None:
    text = "The month's budget of the organization has 0.00 USD left."
    refused = failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXHAUSTED", text)
    server.script("BudgetService.ListBudgets", answers(refused))
    ran = await aiws("budgets", "list")
    assert (ran.returncode, text in ran.stderr, "aiws limits" in ran.stderr) == (1, True, True)


@pytest.mark.usefixtures("signed_in")
async def test_usage_is_grouped_by_hour_and_key(server: ScriptedServer, aiws: Aiws) -> None:
    total = usage_pb2.UsageTotal(request_count=2, cost=usd(5))
    row = usage_pb2.UsageRow(hour="2026-11-25T07", api_key_id="key-1", total=total)
    of_people = usage_pb2.UsageRow(hour="2026-11-25T08", total=total)
    server.script("UsageService.GetUsage", answer(usage_pb2.GetUsageResponse(total=total, rows=[row, of_people])))
    lines = (await aiws("usage", "--by", "hour", "--by", "api-key")).stdout.splitlines()
    assert lines[1].split()[:3] == ["2026-11-25T07", "key-1", "2"]
    assert lines[2].split()[:3] == ["2026-11-25T08", "none", "2"]
    assert list(server.calls[-1].request.group_by) == [
        usage_pb2.USAGE_DIMENSION_HOUR,
        usage_pb2.USAGE_DIMENSION_API_KEY,
    ]
