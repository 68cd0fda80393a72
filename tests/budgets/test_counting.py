"""What a budget counts: whose spending, of which time, from when on; and what it refuses."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2, status_pb2

from aiworkspace.v1 import budget_pb2 as pb
from aiworkspace.v1 import chat_pb2
from aiworkspace_server.app import App
from aiworkspace_server.kit.timestamps import now
from aiworkspace_server.llm.base import ModelRequest, TokenUsage, Turn
from aiworkspace_server.llm.prices import price
from aiworkspace_server.llm.tokens import bound_input
from aiworkspace_server.usage.ledger import BudgetExhausted
from tests.standin import Script, Standin
from tests.support.budgets import (
    API_KEY,
    EXHAUSTED,
    MEMBER,
    MONTH,
    WORKSPACE,
    counted,
    make_budget,
    open_claim,
    release,
    reserve,
    settle,
    spend,
    spender,
    usd,
)
from tests.support.ledger import begin, check_books, nothing_reserved, read_entries, read_windows
from tests.support.outcomes import outcome
from tests.support.people import Person, Place, make_conversation, make_place, make_workspace
from tests.support.postgres import sql, until_blocked
from tests.support.runs import events_of, kinds_of, say
from tests.support.stores import Stores

GPT = "openai/gpt-4o-mini"
BRIEF = chat_pb2.ModelParameters(max_output_tokens=100)


async def test_a_new_budget_counts_what_was_spent_and_is_reserved(app: App, place: Place, stores: Stores) -> None:
    running = spender(place)
    await spend(app, spender(place), 40)
    await reserve(app, running, 25)
    budget = await make_budget(place.owner, place.org_id, 100)
    assert (budget.status.settled, budget.status.reserved, budget.status.remaining) == (usd(40), usd(25), usd(35))
    with pytest.raises(BudgetExhausted):
        await reserve(app, spender(place), 36)
    await settle(app, running, 5)
    assert await counted(place.owner, budget) == (45, 0)
    await make_budget(place.owner, place.org_id, 100, scope=MEMBER)
    with pytest.raises(BudgetExhausted):
        await reserve(app, spender(place), 56)
    await check_books(stores, place.org_id)


async def test_a_budget_that_is_made_amid_a_reservation_counts_it(app: App, place: Place, stores: Stores) -> None:
    """Who makes a budget waits for those who write entries, and they for it."""
    first, second = spender(place), spender(place)
    async with app.db.write(UUID(place.org_id)) as tx:
        await open_claim(tx, first, app.engine.deps.server_id)
        making = asyncio.create_task(make_budget(place.owner, place.org_id, 100))
        await until_blocked(stores, making, of_ledger=True)
        reserving = asyncio.create_task(reserve(app, second, 70))
        await until_blocked(stores, making, reserving, of_ledger=True)
        await app.ledger.reserve(
            tx, first, 1, "echo/echo", price("echo/echo", TokenUsage(0, 0, 0, 0, 0)), own_key=False
        )
        await app.ledger.settle(
            tx, first.org_id, first.run_id, 1, TokenUsage(1, 0, 0, 1, 0), price("echo/echo", TokenUsage(0, 0, 0, 0, 0))
        )
    budget = await making
    await reserving
    assert await counted(place.owner, budget) == (0, 70)
    await check_books(stores, place.org_id)


async def test_a_run_counts_in_the_window_in_which_it_began(app: App, place: Place, stores: Stores) -> None:
    day = await make_budget(place.owner, place.org_id, 100)
    earlier = now() - timedelta(days=1)
    await sql(stores, "UPDATE budgets SET create_time = %s WHERE org_id = %s", earlier, place.org_id)
    late = spender(place, run_time=earlier)
    await reserve(app, late, 90)
    await reserve(app, spender(place), 90)
    assert await counted(place.owner, day) == (0, 90)
    with pytest.raises(BudgetExhausted) as refused:
        await reserve(app, late, 11, attempt=2)
    assert refused.value.metadata["remaining_nanos"] == "10"
    await settle(app, late, 80)
    assert await counted(place.owner, day) == (0, 90)
    starts = {key[2]: figures for key, figures in (await read_windows(stores, place.org_id)).items()}
    assert starts == {begin("day", earlier): (80, 0), begin("day", now()): (0, 90)}
    await check_books(stores, place.org_id)


async def test_windows_from_before_a_budget_are_not_counted(app: App, place: Place, stores: Stores) -> None:
    late = spender(place, run_time=now() - timedelta(days=40))
    await reserve(app, late, 90)
    await make_budget(place.owner, place.org_id, 5)
    await make_budget(place.owner, place.org_id, 5, window=MONTH)
    await reserve(app, late, 50, attempt=2)
    await settle(app, late, 90, attempt=1)
    await release(app, late, attempt=2)
    assert await read_windows(stores, place.org_id) == {}


async def test_each_scope_counts_its_own(app: App, owner: Person, stores: Stores) -> None:
    place = await make_place(owner)
    other = Place(owner, place.org_id, await make_workspace(owner, place.org_id), "")
    key, other_key = uuid4(), uuid4()
    for scope in (WORKSPACE, MEMBER, API_KEY):
        await make_budget(owner, place.org_id, 100, scope=scope)
    one = await make_budget(owner, place.org_id, 60, scope=WORKSPACE, workspace_id=place.workspace_id)
    await spend(app, spender(place, key), 50)
    with pytest.raises(BudgetExhausted) as refused:
        await reserve(app, spender(place, other_key), 11)
    assert refused.value.metadata["budget_id"] == one.budget_id
    await spend(app, spender(other, other_key), 50)
    with pytest.raises(BudgetExhausted, match="the member"):
        await reserve(app, spender(other), 1)
    figures = sorted((await read_windows(stores, place.org_id)).values())
    assert figures == [(50, 0)] * 5 + [(100, 0)]
    await check_books(stores, place.org_id)


async def test_a_soft_budget_lets_pass(app: App, place: Place) -> None:
    budget = await make_budget(place.owner, place.org_id, 10, hard=False)
    await spend(app, spender(place), 50)
    status = (
        await place.owner.budgets.GetBudget(pb.GetBudgetRequest(org_id=place.org_id, budget_id=budget.budget_id))
    ).budget.status
    assert (status.settled, status.remaining) == (usd(50), usd(0))


async def test_a_limit_below_what_is_spent_refuses_what_comes(app: App, place: Place) -> None:
    budget = await make_budget(place.owner, place.org_id, 100)
    await spend(app, spender(place), 50)
    budget.limit.nanos = 40
    request = pb.UpdateBudgetRequest(budget=budget, update_mask=FieldMask(paths=["limit"]))
    assert (await place.owner.budgets.UpdateBudget(request)).budget.status.remaining == usd(0)
    with pytest.raises(BudgetExhausted):
        await reserve(app, spender(place), 1)
    await place.owner.budgets.DeleteBudget(pb.DeleteBudgetRequest(org_id=place.org_id, budget_id=budget.budget_id))
    await reserve(app, spender(place), 1)


async def test_budgets_deleted_amid_runs_refuse_nothing_else(app: App, place: Place, stores: Stores) -> None:
    budgets = [await make_budget(place.owner, place.org_id, 10**6) for _ in range(10)]

    async def delete(budget: pb.Budget) -> None:
        await place.owner.budgets.DeleteBudget(pb.DeleteBudgetRequest(org_id=place.org_id, budget_id=budget.budget_id))

    await asyncio.gather(*(spend(app, spender(place), 3) for _ in range(40)), *map(delete, budgets))
    await check_books(stores, place.org_id)
    assert await read_windows(stores, place.org_id) == {}
    assert len(await read_entries(stores, place.org_id)) == 2 * 40


# Messages


def bound(content: str) -> int:
    return bound_input(ModelRequest("", "", [Turn("user", content)], 0))


async def test_a_refused_message_leaves_nothing_and_says_when_to_come_back(
    place: Place, standin: Standin, stores: Stores
) -> None:
    budget, asked = await make_budget(place.owner, place.org_id, 1_000), len(standin.received)
    request = chat_pb2.SendMessageRequest(conversation_id=place.conversation_id, content="hello", model=GPT)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events_of(place.owner.chat.SendMessage(request))
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"])
    info, quota, retry = error_details_pb2.ErrorInfo(), error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    assert [detail.Unpack(into) for detail, into in zip(status.details, (info, quota, retry), strict=True)] == [
        True
    ] * 3
    assert (caught.value.code(), info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXHAUSTED")
    assert info.metadata == {"budget_id": budget.budget_id, "remaining_nanos": "1000", "currency": "USD"}
    assert quota.violations[0].subject == f"budget:{budget.budget_id}"
    opens = now().timestamp() + retry.retry_delay.ToMilliseconds() / 1000
    assert abs(opens - budget.status.end_time.seconds) < 60
    assert "0.000001 USD left" in status.message
    assert len(standin.received) == asked
    assert await read_entries(stores, place.org_id) == []
    messages = chat_pb2.ListMessagesRequest(conversation_id=place.conversation_id)
    assert not (await place.owner.chat.ListMessages(messages)).messages
    conversation = chat_pb2.GetConversationRequest(conversation_id=place.conversation_id)
    assert not (await place.owner.chat.GetConversation(conversation)).conversation.active_run_id


async def test_of_a_hundred_messages_at_once_those_run_that_fit(
    owner: Person, standin: Standin, stores: Stores
) -> None:
    """Each costs all that is reserved for it, so that it is the same whether it has ended or not."""
    place = await make_place(owner)
    content, fitting = "a hundred at once", 10
    usage = TokenUsage(bound(content), 0, 0, BRIEF.max_output_tokens, 0)
    standin.script("gpt-4o-mini", Script(usage=usage))
    limit = price(GPT, usage).nanos * fitting
    budget, asked = await make_budget(owner, place.org_id, limit), len(standin.received)
    conversations = [await make_conversation(owner, place.workspace_id, GPT) for _ in range(100)]
    over = asyncio.Event()

    async def sample() -> set[int]:
        seen = set()
        while not over.is_set():
            for settled, reserved in (await read_windows(stores, place.org_id)).values():
                seen.add(settled + reserved)
        return seen

    sampling = asyncio.create_task(sample())
    ended = await asyncio.gather(*(outcome(say(owner, each, content, parameters=BRIEF)) for each in conversations))
    over.set()
    assert sorted(ended) == ["OK"] * fitting + [EXHAUSTED] * (100 - fitting)
    assert max(await sampling, default=0) <= limit
    assert len(standin.received) - asked == fitting
    assert await counted(owner, budget) == (limit, 0)
    await check_books(stores, place.org_id)
    assert await nothing_reserved(stores, place.org_id)


async def test_the_same_message_a_hundred_times_is_asked_and_paid_once(
    place: Place, standin: Standin, stores: Stores
) -> None:
    standin.script("gpt-4o-mini", Script(usage=TokenUsage(20, 0, 0, 4, 0)))
    asked, request_id = len(standin.received), str(uuid4())
    calls = (say(place.owner, place.conversation_id, "once", request_id=request_id, model=GPT) for _ in range(100))
    answers = await asyncio.gather(*calls)
    assert len({events[0].run_id for events in answers}) == 1
    assert {kinds_of(events)[-1] for events in answers} == {"run_completed"}
    assert len(standin.received) - asked == 1
    assert [entry.kind for entry in await read_entries(stores, place.org_id)] == ["reserve", "settle"]
