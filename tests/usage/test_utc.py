"""Days, months and times are those of UTC, whatever the machine, the database and its roles believe."""

import os
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from aiworkspace.v1 import audit_pb2, budget_pb2, chat_pb2
from aiworkspace.v1 import usage_pb2 as pb
from aiworkspace_server.app import App, running
from aiworkspace_server.kit.timestamps import now
from aiworkspace_server.settings import Settings
from aiworkspace_server.usage.rebuild import rebuild
from tests.support.budgets import counted, make_budget, reserve, settle, spend, spender
from tests.support.ledger import begin, check_books
from tests.support.mailbox import Mailbox
from tests.support.outcomes import refusal
from tests.support.people import Place, make_place, people
from tests.support.postgres import as_owner, sql, until_no_jobs
from tests.support.runs import say
from tests.support.settings import mail_settings, store_settings
from tests.support.stores import Stores, empty_databases

APIA = "Pacific/Apia"  # 13 hours ahead: for most of a day another day, at the end of a month another month


@pytest.fixture(scope="module")
def _machine() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = APIA
    time.tzset()
    yield
    os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
    time.tzset()


@pytest.fixture(scope="module")
async def odd(stores: Stores, _machine: None) -> Stores:
    """A database that believes to be elsewhere, as do its roles."""
    found = await empty_databases(stores, "apia")
    async with as_owner(found) as owner:
        await owner.execute(f"ALTER DATABASE apia SET timezone TO '{APIA}'".encode())
    return found


@pytest.fixture(scope="module")
async def app(odd: Stores, mailbox: Mailbox) -> AsyncIterator[App]:
    settings = Settings.model_validate(store_settings(odd) | mail_settings(mailbox))
    async with running(settings, migrating=True) as app:
        async with as_owner(odd) as owner:
            for role in ("aiworkspace_app", "aiworkspace_lookup"):
                statement = f"ALTER ROLE {role} IN DATABASE apia SET timezone TO 'America/St_Johns'"
                await owner.execute(statement.encode())
        yield app


@pytest.fixture
async def place(app: App) -> AsyncIterator[Place]:
    async with people(app.address) as new_person:
        yield await make_place(await new_person())


async def days(place: Place, **fields: Any) -> dict[str, int]:
    """What is spent by day."""
    by = [pb.USAGE_DIMENSION_DAY]
    found = await place.owner.usage.GetUsage(pb.GetUsageRequest(org_id=place.org_id, group_by=by, **fields))
    return {row.day: row.total.cost.nanos for row in found.rows}


async def test_the_machine_and_the_database_are_elsewhere(odd: Stores) -> None:
    assert await sql(odd, "SELECT current_setting('TimeZone')") == [(APIA,)]
    assert datetime.now().astimezone().utcoffset() == timedelta(hours=13)


async def test_every_transaction_is_in_utc_whatever_a_pooler_left_behind(app: App, place: Place) -> None:
    """As a pooler that resets settings, or hands over a connection on which somebody else set one."""
    async with app.db.engine.connect() as connection:
        for statement in ("DISCARD ALL", f"SET TimeZone TO '{APIA}'", "SET ROLE aiworkspace_app"):
            await connection.execute(text(statement))
    for _ in range(3):
        async with app.db.write(UUID(place.org_id)) as tx:
            zone, time = (await tx.execute(text("SELECT current_setting('TimeZone'), now()"))).one()
            assert (zone, time.utcoffset()) == ("UTC", timedelta())


async def test_windows_of_budgets_begin_and_end_at_midnight_in_utc(app: App, place: Place) -> None:
    for window, period in ((budget_pb2.BUDGET_WINDOW_DAY, "day"), (budget_pb2.BUDGET_WINDOW_MONTH, "month")):
        budget = await make_budget(place.owner, place.org_id, 100, window=window)
        await spend(app, spender(place), 10)
        request = budget_pb2.GetBudgetRequest(org_id=place.org_id, budget_id=budget.budget_id)
        status = (await place.owner.budgets.GetBudget(request)).budget.status
        assert status.start_time.ToDatetime(UTC) == begin(period, now())
        assert status.end_time.ToDatetime(UTC).time().isoformat() == "00:00:00"
    refused = await refusal(say(place.owner, place.conversation_id, "hello"))
    assert refused
    midnight = begin("day", now()) + timedelta(days=1)
    opens = f"next window begins at {midnight:%Y-%m-%d} 00:00 UTC"
    assert opens in refused.message or "than its limit" in refused.message


async def test_a_run_across_midnight_is_in_the_day_whose_budget_paid(app: App, place: Place, odd: Stores) -> None:
    today = begin("day", now())
    late, yesterday = today - timedelta(seconds=5), f"{today - timedelta(days=1):%Y-%m-%d}"
    budget = await make_budget(place.owner, place.org_id, 10**6)
    await sql(odd, "UPDATE budgets SET create_time = %s WHERE org_id = %s", late, place.org_id)
    who = spender(place, run_time=late)
    await reserve(app, who, 100)
    await settle(app, who, 70)
    assert await counted(place.owner, budget) == (0, 0)
    assert await days(place) == {yesterday: 70}
    times: list[dict[str, Any]] = [{"end_time": today}, {"start_time": late, "end_time": today}]
    for filters in times:
        assert await days(place, **filters) == {yesterday: 70}
        request = pb.ListUsageEntriesRequest(org_id=place.org_id, **filters)
        (entry,) = (await place.owner.usage.ListUsageEntries(request)).entries
        assert entry.run_time.ToDatetime(UTC) == late
    assert await days(place, start_time=today) == {}
    async with app.db.write(UUID(place.org_id)) as tx:
        await rebuild(tx, UUID(place.org_id))
    assert await days(place) == {yesterday: 70}
    await check_books(odd, place.org_id)


async def test_what_was_said_and_done_is_told_in_utc(app: App, place: Place) -> None:
    before = now()
    run = (await say(place.owner, place.conversation_id, "hello"))[-1].run_completed.run
    found = (await place.owner.chat.GetRun(chat_pb2.GetRunRequest(run_id=run.run_id))).run
    assert before <= found.create_time.ToDatetime(UTC) <= found.end_time.ToDatetime(UTC) <= now()
    assert list(await days(place)) == [f"{found.create_time.ToDatetime():%Y-%m-%d}"]
    request = audit_pb2.VerifyAuditChainRequest(org_id=place.org_id)
    assert (await place.owner.audit.VerifyAuditChain(request)).valid


async def test_an_alert_names_the_days_of_utc(app: App, place: Place, odd: Stores, mailbox: Mailbox) -> None:
    await make_budget(place.owner, place.org_id, 100, alert_percents=[50], hard=False)
    await spend(app, spender(place), 60)
    await until_no_jobs(odd, place.org_id)
    (mail,) = mailbox.of(place.owner.email, "50% of a budget are spent")
    said = str(mail.get_content())
    today = begin("day", now())
    assert f"since {today:%d %B %Y} UTC" in said
    assert f"begins on {today + timedelta(days=1):%d %B %Y} UTC" in said
