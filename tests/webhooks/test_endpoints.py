"""Webhook endpoints: what they are, who may change them, and what their secrets are."""

import base64
from uuid import uuid4

import pytest

from aiworkspace.v1 import event_pb2
from aiworkspace.v1 import webhook_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.policies.vault import Vault
from aiworkspace_server.settings import Settings
from aiworkspace_server.webhooks.rotation import rotate_secrets
from tests.support.outcomes import ETAG_MISMATCH, NOT_FOUND, OK, PERMISSION_MISSING, named, outcome, outcomes, refusal
from tests.support.pagination import read_all
from tests.support.people import Person, make_org
from tests.support.postgres import sql, until_no_jobs
from tests.support.service_accounts import NewBackend, make_account, make_key
from tests.support.staff import Team
from tests.support.stores import Stores
from tests.support.webhooks import (
    delete_endpoint,
    get_endpoint,
    make_endpoint,
    receiver,
    rotate,
    send_test,
    update_endpoint,
)

# A public address, to which nothing is sent before something happens.
URL = "https://8.8.8.8/hook"
READY, FAILED = event_pb2.EVENT_TYPE_DOCUMENT_READY, event_pb2.EVENT_TYPE_DOCUMENT_FAILED


async def test_an_endpoint_is_what_was_asked_for(owner: Person) -> None:
    org_id = await make_org(owner)
    made = await make_endpoint(owner, org_id, URL, description="Billing", event_types=[READY, FAILED])
    endpoint = made.webhook_endpoint
    assert (endpoint.org_id, endpoint.url, endpoint.description) == (org_id, URL, "Billing")
    assert (endpoint.enabled, endpoint.disable_reason, endpoint.etag) == (True, 0, "1")
    assert set(endpoint.event_types) == {READY, FAILED}
    assert await get_endpoint(owner, endpoint) == endpoint


async def test_the_secret_is_shown_once_and_stored_encrypted(owner: Person, stores: Stores) -> None:
    org_id, request_id = await make_org(owner), str(uuid4())
    made = await make_endpoint(owner, org_id, URL, request_id=request_id)
    assert made.secret.startswith("whsec_")
    assert len(base64.b64decode(made.secret.removeprefix("whsec_"), validate=True)) == 32
    again = await make_endpoint(owner, org_id, URL, request_id=request_id)
    assert (again.webhook_endpoint, again.secret) == (made.webhook_endpoint, "")
    [(stored,)] = await sql(stores, "SELECT secret FROM webhook_endpoints WHERE org_id = %s", org_id)
    assert made.secret.encode() not in stored


async def test_endpoints_are_listed_oldest_first(owner: Person) -> None:
    org_id = await make_org(owner)
    made = [(await make_endpoint(owner, org_id, URL)).webhook_endpoint for _ in range(3)]
    request = pb.ListWebhookEndpointsRequest(org_id=org_id)
    assert await read_all(owner.webhooks.ListWebhookEndpoints, request, "webhook_endpoints", 2) == made


async def test_an_update_changes_what_it_names(owner: Person) -> None:
    org_id = await make_org(owner)
    endpoint = (await make_endpoint(owner, org_id, URL, description="Old", event_types=[READY])).webhook_endpoint
    other = "https://8.8.4.4/"
    changed = await update_endpoint(owner, endpoint, "url", "event_types", url=other, description="Unnamed")
    assert (changed.url, changed.description, list(changed.event_types)) == (other, "Old", [])
    disabled = await update_endpoint(owner, endpoint, "enabled")
    assert (disabled.enabled, disabled.disable_reason) == (False, pb.WEBHOOK_DISABLE_REASON_REQUESTED)
    enabled = await update_endpoint(owner, endpoint, "enabled", enabled=True)
    assert (enabled.enabled, enabled.disable_reason, enabled.etag) == (True, 0, "4")
    assert await outcome(update_endpoint(owner, endpoint, description="x", etag="1")) == ETAG_MISMATCH
    assert await named(update_endpoint(owner, endpoint, "url")) == ("webhook_endpoint.url",)


@pytest.mark.parametrize(
    "url",
    [
        "http://8.8.8.8/",
        "https://8.8.8.8:8443/",
        "https://10.0.0.1/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://0x7f.1/",
        "https://user:secret@8.8.8.8/",
        "ftp://8.8.8.8/",
        "hook",
    ],
)
async def test_a_url_to_which_nothing_may_be_sent_is_refused(url: str, owner: Person) -> None:
    org_id = await make_org(owner)
    assert await named(make_endpoint(owner, org_id, url)) == ("url",)
    endpoint = (await make_endpoint(owner, org_id, URL)).webhook_endpoint
    assert await named(update_endpoint(owner, endpoint, url=url)) == ("webhook_endpoint.url",)
    assert (await get_endpoint(owner, endpoint)).url == URL


async def test_an_organization_has_at_most_twenty(owner: Person) -> None:
    org_id = await make_org(owner)
    for _ in range(18):
        await make_endpoint(owner, org_id, URL)
    made = await outcomes(make_endpoint(owner, org_id, URL) for _ in range(6))
    assert made == {OK: 2, "RESOURCE_EXHAUSTED WEBHOOK_ENDPOINT_LIMIT": 4}
    refused = await refusal(make_endpoint(owner, org_id, URL))
    assert refused
    assert refused.metadata["limit"] == "20"


async def test_a_deleted_endpoint_is_gone(owner: Person) -> None:
    org_id = await make_org(owner)
    endpoint = (await make_endpoint(owner, org_id, URL)).webhook_endpoint
    await delete_endpoint(owner, endpoint)
    for call in (get_endpoint(owner, endpoint), delete_endpoint(owner, endpoint), rotate(owner, endpoint)):
        assert await outcome(call) == NOT_FOUND


async def test_those_manage_webhooks_who_hold_the_permission(team: Team, new_backend: NewBackend) -> None:
    for person in (team.member, team.viewer):
        assert await outcome(make_endpoint(person, team.org_id, URL)) == PERMISSION_MISSING
    robot_id = await make_account(team.owner, team.org_id)
    for permissions, expected in ((["webhook.manage"], OK), (["event.read"], PERMISSION_MISSING)):
        backend = new_backend((await make_key(team.owner, team.org_id, robot_id, permissions)).secret)
        assert await outcome(make_endpoint(backend, team.org_id, URL)) == expected


# Secrets


async def test_both_secrets_sign_after_a_rotation(owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    async with receiver() as received:
        made = await make_endpoint(owner, org_id, received.url)
        new = await rotate(owner, made.webhook_endpoint)
        await send_test(owner, made.webhook_endpoint)
        await until_no_jobs(stores, org_id)
    assert new != made.secret
    assert received.verify(0, made.secret) == received.verify(0, new)
    assert (await get_endpoint(owner, made.webhook_endpoint)).HasField("previous_secret_expire_time")


async def test_the_old_secret_signs_for_a_day(owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    async with receiver() as received:
        made = await make_endpoint(owner, org_id, received.url)
        new = await rotate(owner, made.webhook_endpoint)
        [(left,)] = await sql(
            stores,
            "UPDATE webhook_endpoints SET previous_secret_expire_time = previous_secret_expire_time"
            " - interval '24 hours' WHERE org_id = %s RETURNING now() - previous_secret_expire_time < '1 minute'",
            org_id,
        )
        assert left
        await send_test(owner, made.webhook_endpoint)
        await until_no_jobs(stores, org_id)
    assert received.verify(0, new)
    with pytest.raises(Exception, match="No matching signature"):
        received.verify(0, made.secret)
    assert not (await get_endpoint(owner, made.webhook_endpoint)).HasField("previous_secret_expire_time")


async def test_secrets_are_encrypted_anew(app: App, owner: Person, settings: Settings, stores: Stores) -> None:
    org_id = await make_org(owner)
    made = (await make_endpoint(owner, org_id, URL)).webhook_endpoint
    await rotate(owner, made)
    read = "SELECT secret, previous_secret FROM webhook_endpoints WHERE org_id = %s"
    before = await sql(stores, read, org_id)
    sealed, lost = await rotate_secrets(app.db, Vault.from_settings(settings))
    after = await sql(stores, read, org_id)
    assert (sealed >= 2, lost) == (True, 0)
    assert all(one != other for one, other in zip(before[0], after[0], strict=True))
    assert (await rotate_secrets(app.db, Vault(["another secret"])))[1] >= 1


async def test_a_copied_secret_signs_nothing_elsewhere(owner: Person, stores: Stores) -> None:
    """Whoever can write into the database cannot let one endpoint's secret sign for another one."""
    org_id = await make_org(owner)
    async with receiver() as received:
        one = (await make_endpoint(owner, org_id, URL)).webhook_endpoint
        other = (await make_endpoint(owner, org_id, received.url)).webhook_endpoint
        copied = (
            "UPDATE webhook_endpoints SET secret = (SELECT secret FROM webhook_endpoints WHERE id = %s) WHERE id = %s"
        )
        await sql(stores, copied, one.webhook_endpoint_id, other.webhook_endpoint_id)
        await send_test(owner, other)
        await until_no_jobs(stores, org_id)
        request = pb.ListWebhookDeliveriesRequest(org_id=org_id, webhook_endpoint_id=other.webhook_endpoint_id)
        [delivery] = (await owner.webhooks.ListWebhookDeliveries(request)).deliveries
    assert received.bodies == []
    assert delivery.attempts[0].failure == pb.WEBHOOK_FAILURE_SECRET
