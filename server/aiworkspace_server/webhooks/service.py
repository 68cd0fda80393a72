"""Rules of webhook endpoints.

Changes of which events an endpoint gets take the lock of the organization's numbering first. So each event is either
stored with its deliveries before the change, or sees the change. All transactions lock in one order: the numbering, the
endpoint, its deliveries.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from aiworkspace.v1 import common_pb2, event_pb2

from ..events import store as events
from ..events.outbox import append
from ..events.types import name_of
from ..kit.egress import Egress
from ..kit.egress_policy import EgressError
from ..kit.errors import FailedPrecondition, InvalidArgument, NotFound, RateLimited, Unavailable, check_etag
from ..kit.ids import new_id
from ..kit.postgres import ReadSession, WriteSession
from ..kit.timestamps import now
from ..orgs.service import lock_org
from . import store
from .models import DisableReason, WebhookEndpoint
from .secrets import OVERLAP, Secrets
from .store import Range

MOST_ENDPOINTS = 20
MOST_REPLAYED = 1000  # events in one call
DISABLED_AFTER = timedelta(days=5)  # of failure

_TEST = event_pb2.EVENT_TYPE_WEBHOOK_TEST
_LOOKUP_SECONDS, _RETRY_SECONDS = 10.0, 5.0


async def check_url(egress: Egress, url: str, field: str) -> None:
    """Raise InvalidArgument for a URL to which nothing would be sent, Unavailable if that cannot be told now.

    Asks the DNS, so it must not be called inside a transaction.
    """
    try:
        await egress.check(url, _LOOKUP_SECONDS)
    except EgressError as error:
        if error.retryable:
            raise Unavailable(f"{field}: {error.message}. Retry later.", _RETRY_SECONDS) from None
        raise InvalidArgument({field: error.message}) from None


async def create_endpoint(
    tx: WriteSession, org_id: UUID, values: dict[str, Any], secrets: Secrets
) -> tuple[WebhookEndpoint, str]:
    """Create an endpoint. Return it and its secret."""
    await lock_org(tx, org_id, "org_id")
    if await store.count_endpoints(tx) >= MOST_ENDPOINTS:
        message = f"The organization has {MOST_ENDPOINTS} webhook endpoints. Delete one first."
        reason, metadata = common_pb2.ERROR_REASON_WEBHOOK_ENDPOINT_LIMIT, {"limit": str(MOST_ENDPOINTS)}
        raise RateLimited("org", message, None, reason, metadata)
    time, endpoint_id = now(), new_id()
    secret, sealed = secrets.new(org_id, endpoint_id)
    endpoint = WebhookEndpoint(
        org_id=org_id,
        id=endpoint_id,
        **values,
        enabled=True,
        answering=False,
        secret=sealed,
        version=1,
        create_time=time,
        update_time=time,
    )
    tx.add(endpoint)
    return endpoint, secret


async def get_endpoint(tx: ReadSession, endpoint_id: UUID) -> WebhookEndpoint:
    endpoint = await store.find_endpoint(tx, endpoint_id)
    if endpoint is None:
        raise NotFound("webhook_endpoint_id")
    return endpoint


async def update_endpoint(tx: WriteSession, endpoint_id: UUID, etag: str, values: dict[str, Any]) -> WebhookEndpoint:
    """Change an endpoint. `values`: url, description, event_types and enabled, or some of them."""
    await events.hold_back(tx)
    endpoint = await _lock(tx, endpoint_id, "webhook_endpoint.webhook_endpoint_id")
    check_etag(etag, endpoint.version, "webhook_endpoint.etag")
    if values.get("enabled", endpoint.enabled) != endpoint.enabled:
        endpoint.disable_reason = DisableReason.REQUESTED if endpoint.enabled else None
        endpoint.answering, endpoint.fail_time, endpoint.resume_time = False, None, None
    for name, value in values.items():
        setattr(endpoint, name, value)
    endpoint.version += 1
    endpoint.update_time = now()
    if not endpoint.enabled:
        await store.end_pending(tx, endpoint_id)
    return endpoint


async def delete_endpoint(tx: WriteSession, endpoint_id: UUID) -> None:
    await events.hold_back(tx)
    await tx.delete(await _lock(tx, endpoint_id, "webhook_endpoint_id"))


async def rotate_secret(tx: WriteSession, endpoint_id: UUID, secrets: Secrets) -> tuple[WebhookEndpoint, str]:
    """Give an endpoint a new secret. Return both."""
    endpoint = await _lock(tx, endpoint_id, "webhook_endpoint_id")
    secret, sealed = secrets.new(endpoint.org_id, endpoint_id)
    endpoint.previous_secret, endpoint.secret = endpoint.secret, sealed
    endpoint.update_time = now()
    endpoint.previous_secret_expire_time = endpoint.update_time + OVERLAP
    endpoint.version += 1
    return endpoint, secret


async def replay(tx: WriteSession, endpoint_id: UUID, wanted: Range) -> tuple[WebhookEndpoint, Sequence[int], bool]:
    """Send events of the endpoint's types again. Return it, their numbers, and whether the range has more of them."""
    await events.hold_back(tx)
    endpoint = await _lock(tx, endpoint_id, "webhook_endpoint_id")
    _check_enabled(endpoint)
    wanted = replace(wanted, types=endpoint.event_types)
    found = await store.list_wanted(tx, wanted, name_of(_TEST), MOST_REPLAYED + 1)
    sequences = found[:MOST_REPLAYED]
    await store.replay(tx, endpoint_id, sequences, now())
    return endpoint, sequences, len(found) > MOST_REPLAYED


async def send_test(tx: WriteSession, endpoint_id: UUID) -> UUID:
    """Append a test event for an endpoint. Return its id."""
    _check_enabled(await get_endpoint(tx, endpoint_id))
    return append(tx, _TEST, webhook_endpoint_id=endpoint_id)


async def disable(tx: WriteSession, endpoint_id: UUID, reason: DisableReason) -> bool:
    """Disable an endpoint that does not work. Return False if it is disabled or deleted already."""
    await events.hold_back(tx)
    endpoint = await store.lock_endpoint(tx, endpoint_id)
    if endpoint is None or not endpoint.enabled:
        return False
    endpoint.enabled, endpoint.disable_reason = False, reason
    endpoint.version += 1
    endpoint.update_time = now()
    await tx.flush()
    await store.end_pending(tx, endpoint_id)
    append(tx, event_pb2.EVENT_TYPE_WEBHOOK_DISABLED, webhook_endpoint_id=endpoint_id)
    return True


async def _lock(tx: WriteSession, endpoint_id: UUID, field: str) -> WebhookEndpoint:
    endpoint = await store.lock_endpoint(tx, endpoint_id)
    if endpoint is None:
        raise NotFound(field)
    return endpoint


def _check_enabled(endpoint: WebhookEndpoint) -> None:
    if not endpoint.enabled:
        raise FailedPrecondition(
            common_pb2.ERROR_REASON_WEBHOOK_ENDPOINT_DISABLED,
            "The endpoint is disabled: enable it with UpdateWebhookEndpoint.",
        )
