"""Delivers events to endpoints: one job for each endpoint, which never runs twice at the same time.

The deliveries of an event are stored in its transaction, together with the jobs of their endpoints. A job sends what is
due and ends; a periodic job enqueues it again when something else is due, also if a server died. The result of an
attempt is stored after it: if the server dies in between, the event is sent again, with the same id.

An endpoint that hangs holds one place in a queue for 15 seconds. Endpoints whose last attempt failed, and new ones,
have a queue of their own and are sent one event at a time. So those that hang wait for each other, and not those that
answer for them.
"""

import asyncio
import time as clock
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

from aiworkspace.v1 import event_pb2

from ..events import store as events
from ..events.models import Event
from ..events.types import name_of
from ..kit.jobs import SENDING_QUEUE, UNANSWERED_QUEUE, Jobs
from ..kit.passes import Pass
from ..kit.postgres import Database, WriteSession
from ..kit.timestamps import now
from ..orgs.store import find_org
from . import store
from .models import DeliveryState, DisableReason, WebhookDelivery, WebhookEndpoint
from .notices import Notices
from .schedule import next_attempt, resume_time
from .sender import Attempt, Sender
from .service import DISABLED_AFTER, disable

AT_ONCE = 4  # requests to an endpoint that answers; to others it is one

_DELIVER, _SWEEP, _EVERY_5_SECONDS = "webhooks.deliver", "webhooks.sweep", "* * * * * */5"
_TURN_SECONDS = 10.0  # after which other endpoints have their turn
_TEST = name_of(event_pb2.EVENT_TYPE_WEBHOOK_TEST)

log = structlog.get_logger("webhooks")


@dataclass(frozen=True, slots=True)
class Due:
    endpoint: WebhookEndpoint
    deliveries: Sequence[tuple[WebhookDelivery, Event]]


class Deliveries:
    """`present` is the clock by which attempts are due."""

    def __init__(
        self, db: Database, jobs: Jobs, sender: Sender, notices: Notices, present: Callable[[], datetime] = now
    ) -> None:
        self._db = db
        self._jobs = jobs
        self._sender = sender
        self._notices = notices
        self._present = present

    def register(self) -> None:
        self._jobs.add(_DELIVER, self.deliver, SENDING_QUEUE, once=True)
        self._jobs.every(_EVERY_5_SECONDS, _SWEEP, self.sweep)

    async def fan_out(self, tx: WriteSession, org_id: UUID, appended: Sequence[Event]) -> None:
        """Store the deliveries of events that are being appended."""
        receivers = [
            UUID(event.resources["webhook_endpoint_id"]) if event.type == _TEST else None for event in appended
        ]
        for endpoint_id, answering in await store.fan_out(tx, self._present(), appended, receivers):
            await self.enqueue(tx, org_id, endpoint_id, answering)

    async def enqueue(self, tx: WriteSession, org_id: UUID, endpoint_id: UUID, answering: bool) -> None:
        """Let an endpoint be sent what is due. The transaction must hold the lock of the organization's numbering.

        Otherwise a job that begins before the commit would not see what this one has stored, and there is no other.
        """
        queue = SENDING_QUEUE if answering else UNANSWERED_QUEUE
        await self._jobs.enqueue_once(tx, _DELIVER, queue, org_id=org_id, webhook_endpoint_id=endpoint_id)

    async def sweep(self) -> None:
        """Enqueue the jobs of endpoints to which something is due: later attempts, and what a dead server left."""
        async with self._db.read() as tx:
            due = await store.list_due_endpoints(tx, self._present())
            at_work = {frozenset(arguments) for _, arguments in await self._jobs.at_work(tx, _DELIVER)}
        this = Pass(_SWEEP)
        for org_id, endpoint_id, answering in due:
            arguments = {"org_id": str(org_id), "webhook_endpoint_id": str(endpoint_id)}
            if frozenset(arguments.items()) not in at_work:
                with this.item(**arguments):
                    async with self._db.write(org_id) as tx:
                        await self.enqueue(tx, org_id, endpoint_id, answering)

    async def deliver(self, org_id: str, webhook_endpoint_id: str) -> None:
        """Send what is due to an endpoint, until nothing is, an attempt fails, or its turn is over. A job."""
        org, endpoint_id, began = UUID(org_id), UUID(webhook_endpoint_id), clock.monotonic()
        answering = True
        while answering and clock.monotonic() - began < _TURN_SECONDS:
            due = await self._find_due(org, endpoint_id)
            if due is None:
                return
            attempts = [self._attempt(due.endpoint, *each) for each in due.deliveries]
            answering = all(await asyncio.gather(*attempts))
        async with self._db.write(org) as tx:
            await events.hold_back(tx)
            endpoint = await store.find_endpoint(tx, endpoint_id)
            if endpoint and endpoint.enabled and await store.list_due(tx, endpoint_id, self._present(), 1):
                await self.enqueue(tx, org, endpoint_id, endpoint.answering)

    async def _find_due(self, org_id: UUID, endpoint_id: UUID) -> Due | None:
        """Return what to send now, also by transactions that are committing; None if it is nothing."""
        async with self._db.write(org_id) as tx:
            await events.wait_for_writers(tx)
            endpoint = await store.find_endpoint(tx, endpoint_id)
            if endpoint is None or not endpoint.enabled or await find_org(tx, org_id) is None:
                return None
            limit = AT_ONCE if endpoint.answering else 1
            found = await store.list_due(tx, endpoint_id, self._present(), limit)
        return Due(endpoint, [(delivery, event) for delivery, event in found]) if found else None

    async def _attempt(self, endpoint: WebhookEndpoint, delivery: WebhookDelivery, event: Event) -> bool:
        """Send an event and store how it went. Return whether it went well."""
        attempt = await self._sender.send(endpoint, event)
        about = {"org_id": str(endpoint.org_id), "endpoint_id": str(endpoint.id), "sequence": event.sequence}
        fields = {**about, "status": attempt.status, "failure": attempt.failure, "duration_ms": attempt.duration_ms}
        log.info("webhook_attempted", **fields)
        async with self._db.write(endpoint.org_id) as tx:
            if attempt.failure is None:
                await store.note_answer(tx, endpoint.id)  # the endpoint before its deliveries, as everywhere
                await store.record(tx, delivery, attempt.stored(), DeliveryState.SUCCEEDED, None)
            else:
                await self._note_failure(tx, endpoint, delivery, attempt)
        return attempt.failure is None

    async def _note_failure(
        self, tx: WriteSession, endpoint: WebhookEndpoint, delivery: WebhookDelivery, attempt: Attempt
    ) -> None:
        if reason := self._disables(endpoint, attempt):
            await events.hold_back(tx)  # before the endpoint, as everywhere
        present = self._present()
        next_time = next_attempt(delivery.attempt_count + 1, present)
        resume = resume_time(attempt.retry_after, present)
        if next_time and resume:
            next_time = max(next_time, resume)
        state = DeliveryState.PENDING if next_time else DeliveryState.FAILED
        await store.note_failure(tx, endpoint.id, attempt.create_time, resume)
        await store.record(tx, delivery, attempt.stored(), state, next_time)
        if resume:
            await store.put_off(tx, endpoint.id, resume)
        if reason and await disable(tx, endpoint.id, reason):
            await self._notices.enqueue(tx, endpoint.org_id, endpoint.id, reason)

    def _disables(self, endpoint: WebhookEndpoint, attempt: Attempt) -> DisableReason | None:
        """Return why an endpoint is disabled after this attempt failed."""
        if attempt.gone:
            return DisableReason.GONE
        since = endpoint.fail_time or attempt.create_time
        return DisableReason.FAILING if self._present() - since >= DISABLED_AFTER else None
