"""What arrives at endpoints: from a running server, through its queue."""

import asyncio

import pytest

from aiworkspace.v1 import event_pb2
from aiworkspace.v1 import webhook_pb2 as pb
from tests.support.events import list_events
from tests.support.mailbox import Mailbox
from tests.support.orgs import delete_org, update_org
from tests.support.outcomes import outcome
from tests.support.people import Person, make_org, make_workspace
from tests.support.postgres import sql, until_no_jobs
from tests.support.sites import replying
from tests.support.stores import Stores
from tests.support.waiting import until, until_true
from tests.support.webhooks import (
    FAILED,
    PENDING,
    SUCCEEDED,
    Receiver,
    delete_endpoint,
    deliveries,
    get_endpoint,
    make_endpoint,
    receiver,
    replay,
    send_test,
    silent,
    statuses,
    update_endpoint,
)

SUBJECT = "A webhook endpoint was disabled"
DISABLED = "FAILED_PRECONDITION WEBHOOK_ENDPOINT_DISABLED"


async def test_an_event_arrives_signed_and_without_content(owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    async with receiver() as received:
        made = await make_endpoint(owner, org_id, received.url)
        workspace_id = await make_workspace(owner, org_id)
        await until_no_jobs(stores, org_id)
    [event] = await list_events(owner, org_id)
    body = {
        "id": event.event_id,
        "type": "workspace.created",
        "timestamp": event.create_time.ToJsonString(),
        "org_id": org_id,
        "sequence": 1,
        "data": {"workspace_id": workspace_id},
    }
    assert received.verify(0, made.secret) == received.bodies[0]
    assert received.bodies == [body | {"timestamp": received.bodies[0]["timestamp"]}]
    assert received.bodies[0]["timestamp"].endswith("Z")
    headers = received.headers[0]
    assert headers["webhook-id"] == event.event_id
    assert (headers["Content-Type"], headers["User-Agent"]) == ("application/json", "aiworkspace")
    [delivery] = await deliveries(owner, made.webhook_endpoint)
    assert (delivery.event_id, delivery.sequence, delivery.event_type) == (event.event_id, 1, event.type)
    assert (delivery.state, delivery.attempt_count) == (SUCCEEDED, 1)
    [attempt] = delivery.attempts
    assert (attempt.status_code, attempt.failure) == (204, 0)


async def test_an_endpoint_gets_the_types_that_it_names(owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    async with receiver() as some, receiver() as all_of_them:
        await make_endpoint(owner, org_id, some.url, event_types=[event_pb2.EVENT_TYPE_ORG_UPDATED])
        await make_endpoint(owner, org_id, all_of_them.url)
        await make_workspace(owner, org_id)
        await update_org(owner, org_id, name="Renamed")
        await until_no_jobs(stores, org_id)
    assert some.types == ["org.updated"]
    assert sorted(all_of_them.types) == ["org.updated", "workspace.created"]


async def test_nothing_arrives_at_another_organization(owner: Person, stores: Stores) -> None:
    org_id, other = await make_org(owner), await make_org(owner)
    async with receiver() as received:
        await make_endpoint(owner, other, received.url)
        await make_workspace(owner, org_id)
        await until_no_jobs(stores, org_id)
        await until_no_jobs(stores, other)
    assert received.bodies == []


async def test_a_test_event_goes_to_its_endpoint_alone(owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    async with receiver() as received, receiver() as other:
        types = [event_pb2.EVENT_TYPE_ORG_UPDATED]
        endpoint = (await make_endpoint(owner, org_id, received.url, event_types=types)).webhook_endpoint
        await make_endpoint(owner, org_id, other.url)
        event_id = await send_test(owner, endpoint)
        await until_no_jobs(stores, org_id)
    assert (received.ids, received.types, other.bodies) == ([event_id], ["webhook.test"], [])
    assert received.bodies[0]["data"] == {"webhook_endpoint_id": endpoint.webhook_endpoint_id}
    assert [event.event_id for event in await list_events(owner, org_id)] == [event_id]


# Failures


async def first_attempt(owner: Person, received: Receiver) -> pb.WebhookDelivery:
    """A delivery after its first attempt failed."""
    endpoint = (await make_endpoint(owner, await make_org(owner), received.url)).webhook_endpoint
    await send_test(owner, endpoint)

    async def attempted() -> pb.WebhookDelivery | None:
        [delivery] = await deliveries(owner, endpoint)
        return delivery if delivery.attempts else None

    delivery = await until(attempted)
    assert delivery
    await delete_endpoint(owner, endpoint)
    return delivery


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 500, 503])
async def test_only_2xx_is_a_success(status: int, owner: Person) -> None:
    async with receiver(statuses(status)) as received:
        delivery = await first_attempt(owner, received)
    assert delivery.state == PENDING
    assert (delivery.attempts[0].status_code, delivery.attempts[0].failure) == (status, pb.WEBHOOK_FAILURE_STATUS)
    assert delivery.HasField("next_attempt_time")


async def test_a_redirect_is_not_followed(owner: Person) -> None:
    async with receiver(statuses({"status": 308, "headers": {"Location": "/elsewhere"}})) as received:
        delivery = await first_attempt(owner, received)
    assert set(received.paths) == {"/hook"}
    assert (delivery.attempts[0].status_code, delivery.attempts[0].failure) == (308, pb.WEBHOOK_FAILURE_STATUS)


async def test_an_endpoint_that_nobody_listens_at_is_unreachable(owner: Person) -> None:
    async with receiver() as received:
        pass
    attempt = (await first_attempt(owner, received)).attempts[0]
    assert (attempt.status_code, attempt.failure) == (0, pb.WEBHOOK_FAILURE_UNREACHABLE)


async def test_an_address_that_was_public_when_it_was_named_is_refused_when_it_is_not(
    owner: Person, stores: Stores
) -> None:
    org_id = await make_org(owner)
    async with receiver() as received:
        endpoint = (await make_endpoint(owner, org_id, received.url)).webhook_endpoint
        moved = "UPDATE webhook_endpoints SET url = %s WHERE id = %s"
        await sql(stores, moved, received.url.replace("127.9.9.9", "127.0.0.1"), endpoint.webhook_endpoint_id)
        await send_test(owner, endpoint)
        await until_no_jobs(stores, org_id)
        [delivery] = await deliveries(owner, endpoint)
    assert delivery.attempts[0].failure == pb.WEBHOOK_FAILURE_REFUSED
    assert received.bodies == []
    await delete_endpoint(owner, endpoint)


async def test_an_endpoint_that_hangs_delays_no_other_one(owner: Person, stores: Stores) -> None:
    """Fifty-nine of them, more than there are places in the queue of those that do not answer."""
    orgs = [await make_org(owner) for _ in range(2)]
    async with silent() as stuck, receiver() as received:
        for org_id in orgs:
            endpoint = (await make_endpoint(owner, org_id, received.url)).webhook_endpoint
            await send_test(owner, endpoint)
            await until_no_jobs(stores, org_id)  # it is known to answer
        slow = [(await make_endpoint(owner, orgs[0], stuck.url)).webhook_endpoint for _ in range(19)]
        others = [await make_org(owner) for _ in range(2)]
        for org_id in others:
            slow += [(await make_endpoint(owner, org_id, stuck.url)).webhook_endpoint for _ in range(20)]
        for org_id in (*others, *orgs):
            await make_workspace(owner, org_id)
        async with asyncio.timeout(10):  # less than one of them takes
            await until_true(lambda: received.types.count("workspace.created") == 2)
        assert stuck.ids
        states = [(await deliveries(owner, endpoint))[0].state for endpoint in slow]
        assert states == [PENDING] * 59
        for endpoint in slow:
            await delete_endpoint(owner, endpoint)


async def test_an_endpoint_that_hangs_is_given_up_after_fifteen_seconds(owner: Person) -> None:
    async with silent() as received:
        delivery = await first_attempt(owner, received)
    [attempt] = delivery.attempts
    assert (attempt.status_code, attempt.failure) == (0, pb.WEBHOOK_FAILURE_TIMEOUT)
    assert 15_000 <= attempt.duration_ms < 60_000


async def test_a_large_answer_is_not_read(owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    async with receiver(replying(status=200, body=b"x" * (64 << 20))) as received:
        endpoint = (await make_endpoint(owner, org_id, received.url)).webhook_endpoint
        await send_test(owner, endpoint)
        await until_no_jobs(stores, org_id)
        [delivery] = await deliveries(owner, endpoint)
    assert (delivery.state, delivery.attempts[0].status_code) == (SUCCEEDED, 200)


# Disabled endpoints


async def test_those_who_manage_webhooks_get_a_mail_when_an_endpoint_is_gone(
    owner: Person, stores: Stores, mailbox: Mailbox
) -> None:
    org_id = await make_org(owner, "Acme Mails")
    async with receiver(statuses(410)) as received:
        endpoint = (await make_endpoint(owner, org_id, received.url)).webhook_endpoint
        await send_test(owner, endpoint)
        mail = await mailbox.wait(owner.email, SUBJECT)
    text = mail.get_content()
    assert endpoint.webhook_endpoint_id in text
    assert "410" in text
    assert "Acme Mails" in text
    disabled = await get_endpoint(owner, endpoint)
    assert (disabled.enabled, disabled.disable_reason) == (False, pb.WEBHOOK_DISABLE_REASON_GONE)
    assert [delivery.state for delivery in await deliveries(owner, endpoint)] == [FAILED]
    assert await outcome(send_test(owner, endpoint)) == await outcome(replay(owner, endpoint)) == DISABLED


async def test_a_disabled_endpoint_gets_what_it_missed_by_a_replay(owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    async with receiver() as received:
        endpoint = (await make_endpoint(owner, org_id, received.url)).webhook_endpoint
        await make_workspace(owner, org_id)
        await until_no_jobs(stores, org_id)
        await update_endpoint(owner, endpoint, "enabled", enabled=False)
        await update_org(owner, org_id, name="Renamed")
        await update_endpoint(owner, endpoint, "enabled", enabled=True)
        await until_no_jobs(stores, org_id)
        assert received.types == ["workspace.created"]
        replayed = await replay(owner, endpoint, after_sequence=1)
        assert (replayed.event_count, replayed.after_sequence, replayed.more) == (1, 2, False)
        await until_no_jobs(stores, org_id)
    assert received.types == ["workspace.created", "org.updated"]


async def test_a_replay_sends_the_events_of_its_range_with_the_same_ids(owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    async with receiver() as received:
        endpoint = (await make_endpoint(owner, org_id, received.url)).webhook_endpoint
        await send_test(owner, endpoint)
        for name in ("a", "b", "c", "d"):
            await update_org(owner, org_id, name=name)
        await until_no_jobs(stores, org_id)
        events = {event.sequence: event for event in await list_events(owner, org_id)}
        sent = len(received.ids)
        assert (await replay(owner, endpoint, after_sequence=2, last_sequence=4)).event_count == 2
        await until_no_jobs(stores, org_id)
        assert sorted(received.ids[sent:]) == sorted(events[n].event_id for n in (3, 4))
        sent = len(received.ids)
        start, end = events[3].create_time, events[5].create_time
        assert (await replay(owner, endpoint, start_time=start, end_time=end)).event_count == 2
        await until_no_jobs(stores, org_id)
        assert sorted(received.ids[sent:]) == sorted(events[n].event_id for n in (3, 4))
        assert (await replay(owner, endpoint)).event_count == 4, "all but the test event"
        await until_no_jobs(stores, org_id)
    assert [each.attempt_count for each in await deliveries(owner, endpoint)] == [1] * 5


async def test_a_replay_takes_a_thousand_events_at_a_time(owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    async with receiver() as received:
        endpoint = (await make_endpoint(owner, org_id, received.url)).webhook_endpoint
        await make_workspace(owner, org_id)
        await until_no_jobs(stores, org_id)
        many = """
          INSERT INTO events SELECT org_id, n, gen_random_uuid(), type, create_time, resources
          FROM events, generate_series(2, 1200) n WHERE org_id = %s
        """
        await sql(stores, many, org_id)
        first = await replay(owner, endpoint, after_sequence=1)
        assert (first.event_count, first.after_sequence, first.more) == (1000, 1001, True)
        rest = await replay(owner, endpoint, after_sequence=first.after_sequence)
        assert (rest.event_count, rest.after_sequence, rest.more) == (199, 1200, False)
        await delete_endpoint(owner, endpoint)


# The end


async def test_a_deleted_endpoint_gets_nothing_more(owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    async with receiver(statuses(500, 204)) as received:
        endpoint = (await make_endpoint(owner, org_id, received.url)).webhook_endpoint
        await send_test(owner, endpoint)
        await until_true(lambda: received.ids)
        await delete_endpoint(owner, endpoint)
        await until_no_jobs(stores, org_id)
    assert await sql(stores, "SELECT FROM webhook_deliveries WHERE org_id = %s", org_id) == []


async def test_deleting_an_endpoint_beside_changes_fails_none_of_them(owner: Person) -> None:
    org_id = await make_org(owner)
    async with receiver() as received:
        for _ in range(10):
            endpoint = (await make_endpoint(owner, org_id, received.url)).webhook_endpoint
            changes = [update_org(owner, org_id, name=f"Acme {n}") for n in range(3)]
            results = await asyncio.gather(*map(outcome, [*changes, delete_endpoint(owner, endpoint)]))
            assert results == ["OK"] * 4


async def test_nothing_is_left_of_a_deleted_organization(owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    async with receiver() as received:
        await make_endpoint(owner, org_id, received.url)
        await update_org(owner, org_id, name="Renamed")
        await until_true(lambda: received.ids)
        await delete_org(owner, org_id)

        async def left() -> int:
            tables = ("events", "event_heads", "webhook_endpoints", "webhook_deliveries")
            return sum([len(await sql(stores, f"SELECT FROM {table} WHERE org_id = %s", org_id)) for table in tables])

        async def nothing_left() -> bool:
            return not await left()

        assert await until(nothing_left)
