"""When a delivery is repeated, and when no more: by a clock that the tests move."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from aiworkspace.v1 import event_pb2
from aiworkspace_server.events.outbox import append
from aiworkspace_server.webhooks.models import DeliveryState, DisableReason
from aiworkspace_server.webhooks.schedule import DELAYS, next_attempt, resume_time
from tests.support.postgres import as_owner, sql, until_blocked
from tests.support.webhooks import receiver, statuses
from tests.webhooks.conftest import Bench

NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)
JITTER = 0.1


def test_the_delays_are_those_of_the_specification() -> None:
    assert [delay.total_seconds() for delay in DELAYS[:3]] == [5, 300, 1800]
    assert [delay.total_seconds() / 3600 for delay in DELAYS[3:]] == [2, 5, 10, 14, 20, 24]
    assert timedelta(hours=75) < sum(DELAYS, timedelta()) < timedelta(hours=76)


def test_a_delay_is_spread_by_a_tenth() -> None:
    assert next_attempt(2, NOON, lambda least, most: least) == NOON + timedelta(minutes=5) * 0.9
    assert next_attempt(2, NOON, lambda least, most: most) == NOON + timedelta(minutes=5) * 1.1
    assert len({next_attempt(2, NOON) for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        ("0", None),
        ("999999999999999999999999", 86_400),
        (format_datetime(NOON + timedelta(hours=1), usegmt=True), 3600),
        (format_datetime(NOON + timedelta(days=40), usegmt=True), 86_400),
        (format_datetime(NOON - timedelta(hours=1), usegmt=True), None),
        ("Tue, 01 Dec 2026 13:00:00", None),
        ("soon", None),
        ("-5", None),
        ("١٢", None),
        ("", None),
    ],
)
def test_what_retry_after_asks_for(header: str, seconds: int | None) -> None:
    expected = NOON + timedelta(seconds=seconds) if seconds else None
    assert resume_time(header, NOON) == expected


async def test_ten_attempts_and_then_it_has_failed(bench: Bench) -> None:
    async with receiver(statuses(500)) as received:
        endpoint_id = await bench.add_endpoint(received.url)
        await bench.happen()
        bench.clock.pass_by(minutes=1)
        for number, delay in enumerate(DELAYS, 1):
            await bench.deliver(endpoint_id)
            [delivery] = await bench.list(endpoint_id)
            assert (delivery.state, delivery.attempt_count) == (DeliveryState.PENDING, number)
            assert delivery.next_attempt_time
            waits = delivery.next_attempt_time - bench.clock.time
            assert delay * (1 - JITTER) <= waits <= delay * (1 + JITTER)
            bench.clock.time = delivery.next_attempt_time - timedelta(seconds=1)
            await bench.deliver(endpoint_id)
            assert len(received.ids) == number, "it is not due yet"
            bench.clock.time = delivery.next_attempt_time
        await bench.deliver(endpoint_id)
        [delivery] = await bench.list(endpoint_id)
        assert (delivery.state, delivery.attempt_count, delivery.next_attempt_time) == (DeliveryState.FAILED, 10, None)
        await bench.deliver(endpoint_id)
    assert len(received.ids) == 10
    assert len(set(received.ids)) == 1
    assert len({str(body) for body in received.bodies}) == 1
    assert [attempt["status"] for attempt in delivery.attempts] == [500] * 10
    assert (await bench.find(endpoint_id)).enabled


async def test_what_succeeds_is_not_sent_again(bench: Bench) -> None:
    async with receiver(statuses(500, 204)) as received:
        endpoint_id = await bench.add_endpoint(received.url)
        await bench.happen()
        bench.clock.pass_by(minutes=1)
        await bench.deliver(endpoint_id)
        assert (await bench.find(endpoint_id)).fail_time
        bench.clock.pass_by(minutes=1)
        for _ in range(2):
            await bench.deliver(endpoint_id)
        [delivery] = await bench.list(endpoint_id)
    assert (delivery.state, delivery.next_attempt_time) == (DeliveryState.SUCCEEDED, None)
    assert len(received.ids) == 2
    endpoint = await bench.find(endpoint_id)
    assert (endpoint.answering, endpoint.fail_time) == (True, None)


async def test_retry_after_holds_for_all_deliveries_to_the_endpoint(bench: Bench) -> None:
    busy = {"status": 503, "headers": {"Retry-After": "7200"}}
    async with receiver(statuses(204, busy, 204)) as received:
        endpoint_id = await bench.add_endpoint(received.url)
        await bench.happen(3)
        bench.clock.pass_by(minutes=1)
        await bench.deliver(endpoint_id)
        assert len(received.ids) == 3, "the first alone, then the two others together, since it answers"
        states = [delivery.state for delivery in await bench.list(endpoint_id)]
        assert sorted(states) == [DeliveryState.PENDING, DeliveryState.SUCCEEDED, DeliveryState.SUCCEEDED]
        await bench.happen()
        resume = bench.clock.time + timedelta(hours=2)
        pending = [each for each in await bench.list(endpoint_id) if each.state == DeliveryState.PENDING]
        assert [each.next_attempt_time for each in pending] == [resume, resume]
        bench.clock.time = resume - timedelta(seconds=1)
        await bench.deliver(endpoint_id)
        assert len(received.ids) == 3
        bench.clock.time = resume
        await bench.deliver(endpoint_id)
    assert len(received.ids) == 5
    assert {delivery.state for delivery in await bench.list(endpoint_id)} == {DeliveryState.SUCCEEDED}


async def test_five_days_of_failure_disable_an_endpoint(bench: Bench) -> None:
    async with receiver(statuses(500)) as received:
        endpoint_id, other_id = await bench.add_endpoint(received.url), await bench.add_endpoint(received.url)
        await bench.happen()
        bench.clock.pass_by(minutes=1)
        await bench.deliver(endpoint_id)
        for hours in (119, 2):
            assert (await bench.find(endpoint_id)).enabled
            bench.clock.pass_by(hours=hours)
            await bench.happen()
            await bench.deliver(endpoint_id)
    endpoint = await bench.find(endpoint_id)
    assert (endpoint.enabled, endpoint.disable_reason) == (False, DisableReason.FAILING)
    assert {delivery.state for delivery in await bench.list(endpoint_id)} == {DeliveryState.FAILED}
    notices = (
        "SELECT args->>'reason' FROM procrastinate_jobs WHERE task_name = 'webhooks.notify' AND args->>'org_id' = %s"
    )
    assert await sql(bench.stores, notices, str(bench.org_id)) == [("failing",)]
    told = "SELECT sequence FROM events WHERE org_id = %s AND type = 'webhook.disabled'"
    [(sequence,)] = await sql(bench.stores, told, bench.org_id)
    assert [delivery.sequence for delivery in await bench.list(other_id)][-1] == sequence
    assert sequence not in [delivery.sequence for delivery in await bench.list(endpoint_id)]


async def test_a_success_within_the_five_days_starts_them_anew(bench: Bench) -> None:
    async with receiver(statuses(500, 204, 500)) as received:
        endpoint_id = await bench.add_endpoint(received.url)
        for days in (0, 3, 3):
            bench.clock.pass_by(days=days, minutes=1)
            await bench.happen()
            await bench.deliver(endpoint_id)
    assert len(received.ids) >= 3
    assert (await bench.find(endpoint_id)).enabled


async def test_an_endpoint_that_is_gone_is_disabled_at_once(bench: Bench) -> None:
    async with receiver(statuses(204, 410)) as received:
        endpoint_id = await bench.add_endpoint(received.url)
        await bench.happen(9)
        bench.clock.pass_by(minutes=1)
        await bench.deliver(endpoint_id)
    endpoint = await bench.find(endpoint_id)
    assert (endpoint.enabled, endpoint.disable_reason) == (False, DisableReason.GONE)
    assert len(received.ids) == 5, "one, and then four at the same time"
    states = [delivery.state for delivery in await bench.list(endpoint_id)]
    assert (states.count(DeliveryState.SUCCEEDED), states.count(DeliveryState.FAILED)) == (1, 8)
    told = "SELECT count(*) FROM events WHERE org_id = %s AND type = 'webhook.disabled'"
    assert await sql(bench.stores, told, bench.org_id) == [(1,)]


# Queues


async def test_an_endpoint_is_in_the_queue_of_those_that_answer_only_while_it_does(bench: Bench) -> None:
    async with receiver(statuses(204, 500, 204)) as received:
        endpoint_id, queues = await bench.add_endpoint(received.url), []
        for _ in range(3):
            await bench.take_job(endpoint_id)
            await bench.happen()
            queues.append(await bench.queue_of(endpoint_id))
            bench.clock.pass_by(minutes=1)
            await bench.deliver(endpoint_id)
    assert queues == ["unanswered", "sending", "unanswered"]


async def test_jobs_are_not_enqueued_twice_and_what_is_due_later_is_enqueued_then(bench: Bench) -> None:
    async with receiver(statuses(500, 204)) as received:
        endpoint_id = await bench.add_endpoint(received.url)
        await asyncio.gather(*(bench.happen() for _ in range(5)))
        assert await bench.queue_of(endpoint_id) == "unanswered"
        await bench.take_job(endpoint_id)
        await bench.deliveries.sweep()
        assert await bench.queue_of(endpoint_id) == "unanswered", "a server died"
        await bench.take_job(endpoint_id)
        bench.clock.pass_by(minutes=1)
        await bench.deliver(endpoint_id)
        assert (len(received.ids), await bench.queue_of(endpoint_id)) == (1, "unanswered"), "one at a time"
        await bench.take_job(endpoint_id)
        await bench.deliver(endpoint_id)
        assert (len(received.ids), await bench.queue_of(endpoint_id)) == (5, "")
        await bench.deliveries.sweep()
        assert await bench.queue_of(endpoint_id) == "", "nothing is due"
        bench.clock.pass_by(minutes=1)
        await bench.deliveries.sweep()
        assert await bench.queue_of(endpoint_id) == "sending"


@pytest.mark.parametrize("status", [204, 500])
async def test_an_attempt_that_waits_for_its_endpoint_holds_no_delivery(status: int, bench: Bench) -> None:
    """Changes of an endpoint lock it before its deliveries: the other way round, both would wait for each other."""
    async with receiver(statuses(status)) as received, as_owner(bench.stores) as owner:
        endpoint_id = await bench.add_endpoint(received.url)
        await bench.happen()
        bench.clock.pass_by(minutes=1)
        async with owner.transaction():
            await owner.execute("SELECT FROM webhook_endpoints WHERE id = %s FOR NO KEY UPDATE", (endpoint_id,))
            working = asyncio.create_task(bench.deliver(endpoint_id))
            await until_blocked(bench.stores, working)
            mine = "SELECT FROM webhook_deliveries WHERE webhook_endpoint_id = %s FOR UPDATE NOWAIT"
            assert (await owner.execute(mine, (endpoint_id,))).rowcount == 1
        await working
    assert len(received.ids) == 1


async def test_a_job_waits_for_events_that_are_being_committed(bench: Bench) -> None:
    """Their transaction saw a job that waits, and enqueued none; the job must not begin and end before it commits."""
    async with receiver() as received:
        endpoint_id, go, stored = await bench.add_endpoint(received.url), asyncio.Event(), asyncio.Event()
        fan_out = bench.db.before_commit[0]
        await bench.happen()

        async def slow() -> None:
            async with bench.db.write(bench.org_id) as tx:
                append(tx, event_pb2.EVENT_TYPE_ORG_UPDATED)
                await fan_out(tx)
                stored.set()
                await go.wait()

        committing = asyncio.create_task(slow())
        await stored.wait()
        bench.clock.pass_by(minutes=1)
        working = asyncio.create_task(bench.deliver(endpoint_id))
        await until_blocked(bench.stores, working)
        assert received.ids == []
        go.set()
        await asyncio.gather(committing, working)
    assert len(received.ids) == 2
