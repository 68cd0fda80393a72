"""Alerts: one mail for each threshold of a window, to those who may manage budgets."""

import asyncio
from datetime import timedelta

from google.protobuf.field_mask_pb2 import FieldMask

from aiworkspace.v1 import budget_pb2 as pb
from aiworkspace.v1 import org_pb2
from aiworkspace_server.app import App
from aiworkspace_server.kit.timestamps import now
from aiworkspace_server.llm.base import TokenUsage
from aiworkspace_server.llm.prices import Price
from aiworkspace_server.usage.ledger import count_alone
from tests.support.budgets import MEMBER, make_budget, reserve, settle, spend, spender, tokens, usd
from tests.support.custom_roles import BILLING, assign, make_role
from tests.support.mailbox import Mailbox
from tests.support.orgs import suspend
from tests.support.people import NewPerson, Person, Place, join, make_conversation, new_place
from tests.support.postgres import sql, until_no_jobs
from tests.support.runs import say
from tests.support.service_accounts import make_robot
from tests.support.stores import Stores

SPENT = "of a budget are spent"


async def mails(mailbox: Mailbox, stores: Stores, place: Place, person: Person | None = None) -> list[str]:
    """Subjects of the alerts that somebody got about the organization, once all are sent."""
    await until_no_jobs(stores, place.org_id)
    return [mail["Subject"] for mail in mailbox.of((person or place.owner).email, SPENT)]


async def test_a_threshold_is_told_once(app: App, new_person: NewPerson, mailbox: Mailbox, stores: Stores) -> None:
    place = await new_place(new_person)
    await make_budget(place.owner, place.org_id, 1_000, alert_percents=[50, 90])
    await spend(app, spender(place), 499)
    assert await mails(mailbox, stores, place) == []
    await spend(app, spender(place), 1)
    assert await mails(mailbox, stores, place) == ["50% of a budget are spent"]
    await spend(app, spender(place), 300)
    assert len(await mails(mailbox, stores, place)) == 1
    await spend(app, spender(place), 200)
    assert await mails(mailbox, stores, place) == ["50% of a budget are spent", "90% of a budget are spent"]


async def test_what_is_only_reserved_is_not_told(
    app: App, new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    place = await new_place(new_person)
    await make_budget(place.owner, place.org_id, 1_000, alert_percents=[50])
    await reserve(app, spender(place), 900)
    assert await mails(mailbox, stores, place) == []


async def test_fifty_settlements_at_once_are_told_once(
    app: App, new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    place = await new_place(new_person)
    await make_budget(place.owner, place.org_id, 5_000, alert_percents=[50], hard=False)
    runs = [spender(place) for _ in range(50)]
    for run in runs:
        await reserve(app, run, 100)
    await asyncio.gather(*(settle(app, run, 100) for run in runs))
    assert await mails(mailbox, stores, place) == ["50% of a budget are spent"]


async def test_a_jump_over_two_thresholds_tells_the_greater(
    app: App, new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    place = await new_place(new_person)
    await make_budget(place.owner, place.org_id, 1_000, alert_percents=[50, 80, 100])
    await spend(app, spender(place), 950)
    assert await mails(mailbox, stores, place) == ["80% of a budget are spent"]


async def test_those_are_told_who_may_manage_budgets(
    app: App, new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    place = await new_place(new_person)
    owner, org_id = place.owner, place.org_id
    people = {name: await new_person() for name in ("admin", "billing", "custom", "member", "suspended")}
    for person in people.values():
        await join(owner, org_id, person, org_pb2.ROLE_MEMBER)
    await assign(owner, org_id, people["admin"], org_pb2.ROLE_ADMIN)
    await assign(owner, org_id, people["billing"], BILLING)
    await assign(owner, org_id, people["custom"], role_id=await make_role(owner, org_id, "org.read", "budget.manage"))
    await assign(owner, org_id, people["suspended"], org_pb2.ROLE_ADMIN)
    await suspend(owner, org_id, people["suspended"])
    robot = await make_robot(stores, app.address, org_id, "admin", ["budget.manage"])
    await robot.channel.close()
    await make_budget(owner, org_id, 1_000, alert_percents=[50])
    await spend(app, spender(place), 500)
    told = {name for name, person in people.items() if await mails(mailbox, stores, place, person)}
    assert told == {"admin", "billing", "custom"}
    assert len(await mails(mailbox, stores, place)) == 1


async def test_the_mail_says_whose_how_much_and_until_when(app: App, new_person: NewPerson, mailbox: Mailbox) -> None:
    place = await new_place(new_person)
    budget = await make_budget(place.owner, place.org_id, 2 * 10**9, alert_percents=[60], scope=MEMBER)
    await spend(app, spender(place), 1_234_567_000)
    text = (await mailbox.wait(place.owner.email, SPENT)).get_content()
    assert "60% of the budget of “Somebody” for this day are spent: 1.234567 of 2.00 USD" in text
    assert "requests are refused" in text
    assert f"The next day begins on {(now() + timedelta(days=1)):%d %B %Y} UTC." in text
    assert "“Acme”" in text
    assert budget.budget_id not in text


async def test_each_window_is_told_of_its_own(
    app: App, new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    place = await new_place(new_person)
    await make_budget(place.owner, place.org_id, 1_000, alert_percents=[50])
    earlier = now() - timedelta(days=1)
    await sql(stores, "UPDATE budgets SET create_time = %s WHERE org_id = %s", earlier, place.org_id)
    await spend(app, spender(place, run_time=earlier), 600)
    await spend(app, spender(place), 600)
    assert len(await mails(mailbox, stores, place)) == 2


async def test_a_greater_limit_lets_a_threshold_be_told_again(
    app: App, new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    place = await new_place(new_person)
    budget = await make_budget(place.owner, place.org_id, 1_000, alert_percents=[50])
    await spend(app, spender(place), 600)
    changed = pb.Budget(org_id=place.org_id, budget_id=budget.budget_id, limit=usd(2_000))
    await place.owner.budgets.UpdateBudget(
        pb.UpdateBudgetRequest(budget=changed, update_mask=FieldMask(paths=["limit"]))
    )
    await spend(app, spender(place), 300)
    assert len(await mails(mailbox, stores, place)) == 1
    await spend(app, spender(place), 100)
    assert len(await mails(mailbox, stores, place)) == 2


async def test_an_adjustment_is_told_of_too(app: App, new_person: NewPerson, mailbox: Mailbox, stores: Stores) -> None:
    place = await new_place(new_person)
    who = spender(place)
    await make_budget(place.owner, place.org_id, 1_000, alert_percents=[50])
    await spend(app, who, 400)
    async with app.db.write(who.org_id) as tx:
        await count_alone(tx, who.org_id)
        await app.ledger.adjust(tx, who.run_id, 1, tokens(), Price(200, "test"))
    assert len(await mails(mailbox, stores, place)) == 1


async def test_a_settlement_that_is_rolled_back_is_not_told(
    app: App, new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    place = await new_place(new_person)
    who = spender(place)
    await make_budget(place.owner, place.org_id, 1_000, alert_percents=[50])
    await reserve(app, who, 900)
    try:
        async with app.db.write(who.org_id) as tx:
            assert await app.ledger.settle(tx, who.org_id, who.run_id, 1, TokenUsage(1, 0, 0, 1, 0), Price(900, "test"))
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert await mails(mailbox, stores, place) == []


async def test_a_message_that_is_answered_is_told_of(
    app: App, new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    place = await new_place(new_person)
    await make_budget(place.owner, place.org_id, 1_000, alert_percents=[100], hard=False)
    await say(place.owner, await make_conversation(place.owner, place.workspace_id, "echo/echo"), "hello")
    assert await mails(mailbox, stores, place) == ["100% of a budget are spent"]
