"""The monthly allowance of each organization on the server's own keys."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from aiworkspace.v1 import account_pb2, audit_pb2, org_pb2
from aiworkspace.v1 import budget_pb2 as pb
from aiworkspace_server.accounts.jobs import CHANGE_SUBJECT
from aiworkspace_server.app import App, running
from aiworkspace_server.auth.former_addresses import forget_former_addresses
from aiworkspace_server.budgets.service import ORGS_WITH_ALLOWANCE
from aiworkspace_server.llm.base import TokenUsage
from aiworkspace_server.settings import Settings
from aiworkspace_server.usage.ledger import BudgetExhausted
from aiworkspace_server.usage.rebuild import rebuild
from tests.standin import BYTES, Script, Standin
from tests.support.budgets import DAY, EXHAUSTED, MONTH, make_budget, reserve, settle, spend, spender, usd
from tests.support.ledger import check_books
from tests.support.mailbox import Mailbox
from tests.support.operator import operate
from tests.support.outcomes import NOT_FOUND, OK, named, outcome, refusal
from tests.support.people import (
    PASSWORD,
    Person,
    Place,
    join,
    make_conversation,
    make_org,
    make_place,
    make_workspace,
    people,
)
from tests.support.postgres import sql
from tests.support.runs import say
from tests.support.settings import mail_settings, provider_settings, store_settings
from tests.support.stores import Stores, other_databases

ALLOWANCE = 10**7  # 0.01 USD
FIXED = "FAILED_PRECONDITION ALLOWANCE_FIXED"
GPT = "openai/gpt-4o-mini"


@pytest.fixture(scope="module")
async def limited(stores: Stores) -> Stores:
    return await other_databases(stores, "limited")


@pytest.fixture(scope="module")
def values(limited: Stores, standin: Standin, mailbox: Mailbox) -> dict[str, object]:
    settings = provider_settings(standin) | store_settings(limited) | mail_settings(mailbox)
    return settings | {"org_allowance_usd": "0.01"}


@pytest.fixture(scope="module")
async def app(values: dict[str, object]) -> AsyncIterator[App]:
    async with running(Settings.model_validate(values), migrating=True) as app:
        yield app


@pytest.fixture
async def place(app: App) -> AsyncIterator[Place]:
    app.engine.deps.breakers.forget()
    async with people(app.address) as new_person:
        yield await make_place(await new_person())


async def list_budgets(place: Place) -> list[pb.Budget]:
    """The allowance, if it has a limit, and the budgets that the organization made."""
    found = await place.owner.budgets.ListBudgets(pb.ListBudgetsRequest(org_id=place.org_id))
    assert all(budget.scope != pb.BUDGET_SCOPE_ALLOWANCE for budget in found.budgets)
    return [*([found.allowance] if found.HasField("allowance") else []), *found.budgets]


async def allowance_of(place: Place) -> pb.Budget:
    budget = (await list_budgets(place))[0]
    assert budget.scope == pb.BUDGET_SCOPE_ALLOWANCE
    return budget


async def spent(place: Place) -> tuple[int, int]:
    status = (await allowance_of(place)).status
    return status.settled.nanos, status.reserved.nanos


# What the organization sees


async def test_an_organization_sees_its_allowance_from_the_beginning(place: Place) -> None:
    (budget,) = await list_budgets(place)
    assert (budget.scope, budget.window, budget.hard) == (pb.BUDGET_SCOPE_ALLOWANCE, MONTH, True)
    assert (budget.limit, budget.status.remaining) == (usd(ALLOWANCE), usd(ALLOWANCE))
    request = pb.GetBudgetRequest(org_id=place.org_id, budget_id=budget.budget_id)
    assert (await place.owner.budgets.GetBudget(request)).budget == budget


async def test_an_organization_can_neither_make_change_nor_delete_one(place: Place) -> None:
    budgets, budget = place.owner.budgets, await allowance_of(place)
    assert await named(make_budget(place.owner, place.org_id, 10**12, scope=pb.BUDGET_SCOPE_ALLOWANCE)) == ("scope",)
    changed = pb.Budget(org_id=place.org_id, budget_id=budget.budget_id, limit=usd(10**12))
    assert await outcome(budgets.UpdateBudget(pb.UpdateBudgetRequest(budget=changed))) == FIXED
    soft = pb.UpdateBudgetRequest(budget=changed, update_mask=FieldMask(paths=["hard"]))
    assert await outcome(budgets.UpdateBudget(soft)) == FIXED
    delete = pb.DeleteBudgetRequest(org_id=place.org_id, budget_id=budget.budget_id)
    assert await outcome(budgets.DeleteBudget(delete)) == FIXED
    assert await allowance_of(place) == budget


# What it counts


async def test_it_counts_every_member_workspace_and_key_on_the_servers_keys_alone(
    app: App, place: Place, limited: Stores
) -> None:
    other = Place(place.owner, place.org_id, await make_workspace(place.owner, place.org_id), "")
    async with people(app.address) as new_person:
        member = await new_person()
        await join(place.owner, place.org_id, member, org_pb2.ROLE_MEMBER)
        await spend(app, spender(place), 1_000)
        await spend(app, spender(other, uuid4()), 200)
        await spend(app, spender(other, user_id=member.user_id), 30)
    await reserve(app, who := spender(place), 10**12, own_key=True)
    await settle(app, who, 10**12)
    await reserve(app, spender(place), 4)
    assert await spent(place) == (1_230, 4)
    async with app.db.write(UUID(place.org_id)) as tx:
        await rebuild(tx, UUID(place.org_id))
    assert await spent(place) == (1_230, 4)
    await check_books(limited, place.org_id)


async def test_what_does_not_fit_is_refused_and_says_whose_it_is(app: App, place: Place) -> None:
    await spend(app, spender(place), ALLOWANCE - 10)
    with pytest.raises(BudgetExhausted, match="allowance of the organization on the server's own keys"):
        await reserve(app, spender(place), 11)
    refused = await refusal(say(place.owner, place.conversation_id, "hello", model="echo/echo"))
    assert refused
    assert f"{refused.code} {refused.reason}" == EXHAUSTED
    assert refused.metadata["budget_id"] == (await allowance_of(place)).budget_id
    said = await place.owner.budgets.ExplainLimit(pb.ExplainLimitRequest(workspace_id=place.workspace_id))
    (met,) = said.budgets
    assert (said.allowed, met.scope, met.fits) == (False, pb.BUDGET_SCOPE_ALLOWANCE, False)
    await reserve(app, spender(place), 10**9, own_key=True)


async def test_budgets_of_the_organization_hold_beside_it(app: App, place: Place) -> None:
    await make_budget(place.owner, place.org_id, 100, window=DAY)
    assert len(await list_budgets(place)) == 2
    with pytest.raises(BudgetExhausted, match="budget of the organization"):
        await reserve(app, spender(place), 101)


async def test_sixteen_at_once_spend_no_more_than_the_allowance(
    app: App, place: Place, limited: Stores, standin: Standin
) -> None:
    """In workspaces of their own, at a provider that bills a token for each byte."""
    standin.script("gpt-4o-mini", Script(tokens=("ok",) * 5, usage=BYTES))
    content = "8" * 10_000  # 0.0015 USD
    workspaces = [await make_workspace(place.owner, place.org_id) for _ in range(16)]
    conversations = [await make_conversation(place.owner, each, GPT) for each in workspaces]
    ended = await asyncio.gather(*(outcome(say(place.owner, each, content)) for each in conversations))
    assert {*ended} == {OK, EXHAUSTED}
    settled, reserved = await spent(place)
    assert 0 < settled <= ALLOWANCE
    assert reserved == 0
    await check_books(limited, place.org_id)


async def test_a_long_text_is_asked_while_what_it_is_expected_to_cost_is_left(
    app: App, place: Place, limited: Stores, standin: Standin
) -> None:
    """A token for each of its bytes would be more than the allowance ever has."""
    standin.script("gpt-4o-mini", Script(tokens=("ok",), usage=TokenUsage(20_000, 0, 0, 1, 0)))
    content = "word " * 20_000
    conversation_id = await make_conversation(place.owner, place.workspace_id, GPT)
    assert await outcome(say(place.owner, conversation_id, content)) == OK
    settled, _ = await spent(place)
    assert 0 < settled < ALLOWANCE
    await spend(app, spender(place), ALLOWANCE - settled - 1_000_000)
    other_id = await make_conversation(place.owner, place.workspace_id, GPT)
    refused = await refusal(say(place.owner, other_id, content))
    assert refused
    assert f"{refused.code} {refused.reason}" == EXHAUSTED
    assert "its next window begins at" in refused.message
    await check_books(limited, place.org_id)


# What the operator says


async def test_the_operator_raises_it_while_the_server_runs(app: App, place: Place, values: dict[str, object]) -> None:
    await spend(app, spender(place), ALLOWANCE)
    assert await outcome(say(place.owner, place.conversation_id, "hello", model="echo/echo")) == EXHAUSTED
    said = await operate(values, "allowance", place.org_id)
    assert "'Acme' may spend 0.01 USD a month on the server's keys (the server's default)" in said
    assert "this month: 0.01 USD spent, 0.00 USD reserved" in said
    assert "may spend 100.00 USD a month" in await operate(values, "allowance", place.org_id, "100")
    assert (await allowance_of(place)).limit == usd(100 * 10**9)
    assert await outcome(say(place.owner, place.conversation_id, "hello", model="echo/echo")) == OK
    assert "(the server's default)" in await operate(values, "allowance", place.org_id, "default")
    assert await outcome(say(place.owner, place.conversation_id, "hello", model="echo/echo")) == EXHAUSTED
    assert "may spend no limit" in await operate(values, "allowance", place.org_id, "unlimited")
    assert await list_budgets(place) == []
    assert await outcome(say(place.owner, place.conversation_id, "hello", model="echo/echo")) == OK
    request = audit_pb2.ListAuditEventsRequest(org_id=place.org_id, method="allowance")
    events = (await place.owner.audit.ListAuditEvents(request)).events
    assert [(event.role, event.code) for event in events] == [("operator", "OK")] * 3
    verified = await place.owner.audit.VerifyAuditChain(audit_pb2.VerifyAuditChainRequest(org_id=place.org_id))
    assert not verified.broken_sequence


@pytest.mark.parametrize("amount", ["-1", "x", "1e30", "0.0000000001", "nan"])
async def test_an_amount_that_makes_no_sense_is_refused(amount: str, place: Place, values: dict[str, object]) -> None:
    with pytest.raises(AssertionError, match="is not an amount in USD"):
        await operate(values, "allowance", "--", place.org_id, amount)
    assert (await allowance_of(place)).limit == usd(ALLOWANCE)


async def test_an_organization_that_is_not_there_is_named(values: dict[str, object]) -> None:
    unknown = str(uuid4())
    with pytest.raises(AssertionError, match=f"there is no organization {unknown}"):
        await operate(values, "allowance", unknown, "100")


# How often one has it


async def test_an_account_that_makes_many_organizations_has_few_allowances(place: Place) -> None:
    """Also when it deletes them in between."""
    owner = place.owner
    for _ in range(ORGS_WITH_ALLOWANCE - 1):
        org_id = await make_org(owner)
        assert (await allowance_of(Place(owner, org_id, "", ""))).limit == usd(ALLOWANCE)
        await owner.orgs.DeleteOrg(org_pb2.DeleteOrgRequest(org_id=org_id))
    made = await asyncio.gather(*(make_place(owner) for _ in range(5)))
    assert [(await allowance_of(each)).limit.nanos for each in made] == [0] * 5
    assert await outcome(say(owner, made[0].conversation_id, "hello", model="echo/echo")) == EXHAUSTED


@pytest.mark.parametrize("way", ["deleted", "another address"])
async def test_an_address_that_is_registered_again_has_no_new_allowances(
    way: str, app: App, limited: Stores, mailbox: Mailbox
) -> None:
    async with people(app.address) as new_person:
        first = await new_person()
        spent = "UPDATE users SET verify_time = now(), created_org_count = %s WHERE id = %s"
        await sql(limited, spent, ORGS_WITH_ALLOWANCE, first.user_id)
        if way == "deleted":
            await first.accounts.DeleteAccount(account_pb2.DeleteAccountRequest(password=PASSWORD))
        else:
            email = f"other-{first.email}"
            await first.accounts.ChangeEmail(account_pb2.ChangeEmailRequest(new_email=email, password=PASSWORD))
            await first.accounts.VerifyEmail(
                account_pb2.VerifyEmailRequest(token=await mailbox.token(email, CHANGE_SUBJECT))
            )
        assert await sql(limited, "SELECT 1 FROM former_addresses t WHERE strpos(t::text, %s) > 0", first.email) == []
        again = Person(app.address)
        again.email = first.email
        await again.register()
        org_id = await make_org(again)
        assert (await allowance_of(Place(again, org_id, "", ""))).limit.nanos == 0
        await again.channel.close()


async def test_an_address_that_was_not_verified_is_not_remembered(app: App, limited: Stores) -> None:
    """Somebody else may have registered it."""
    async with people(app.address) as new_person:
        first = await new_person()
        spent = "UPDATE users SET verify_time = NULL, created_org_count = %s WHERE id = %s"
        await sql(limited, spent, ORGS_WITH_ALLOWANCE, first.user_id)
        await first.accounts.DeleteAccount(account_pb2.DeleteAccountRequest(password=PASSWORD))
        again = Person(app.address)
        again.email = first.email
        await again.register()
        assert (await allowance_of(Place(again, await make_org(again), "", ""))).limit == usd(ALLOWANCE)
        await again.channel.close()


async def test_an_address_is_forgotten_after_two_months(app: App, limited: Stores) -> None:
    long_ago = "INSERT INTO former_addresses VALUES (sha256('old'), 3, now() - interval '63 days')"
    await sql(limited, long_ago)
    async with app.db.write() as tx:
        await forget_former_addresses(tx)
    assert await sql(limited, "SELECT 1 FROM former_addresses WHERE address_hash = sha256('old')") == []


async def test_a_foreign_allowance_is_not_known(app: App, place: Place) -> None:
    async with people(app.address) as new_person:
        stranger = await new_person()
        own = await make_org(stranger)
        request = pb.GetBudgetRequest(org_id=own, budget_id=place.org_id)
        assert await outcome(stranger.budgets.GetBudget(request)) == NOT_FOUND
