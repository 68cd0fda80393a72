"""Deliveries without a server, whose clock stands still until a test moves it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from aiworkspace.v1 import event_pb2
from aiworkspace_server.events.outbox import Outbox, append
from aiworkspace_server.kit.egress import Egress
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.kit.jobs import Jobs
from aiworkspace_server.kit.mail import make_mailer
from aiworkspace_server.kit.postgres import Database
from aiworkspace_server.kit.timestamps import now
from aiworkspace_server.policies.vault import Vault
from aiworkspace_server.settings import Settings
from aiworkspace_server.webhooks import store
from aiworkspace_server.webhooks.deliveries import Deliveries
from aiworkspace_server.webhooks.models import WebhookDelivery, WebhookEndpoint
from aiworkspace_server.webhooks.notices import Notices
from aiworkspace_server.webhooks.secrets import Secrets
from aiworkspace_server.webhooks.sender import Sender
from tests.support.postgres import sql
from tests.support.stores import Stores, migrated_databases


class Clock:
    def __init__(self) -> None:
        self.time = now()

    def __call__(self) -> datetime:
        return self.time

    def pass_by(self, **duration: float) -> None:
        self.time += timedelta(**duration)


@dataclass
class Bench:
    """An organization whose events are delivered only when a test says so."""

    stores: Stores
    db: Database
    secrets: Secrets
    deliveries: Deliveries
    clock: Clock
    org_id: UUID

    async def add_endpoint(self, url: str, *types: str) -> UUID:
        endpoint_id, time = new_id(), now()
        _, sealed = self.secrets.new(self.org_id, endpoint_id)
        endpoint = WebhookEndpoint(
            org_id=self.org_id,
            id=endpoint_id,
            url=url,
            description="",
            event_types=list(types),
            enabled=True,
            answering=False,
            secret=sealed,
            version=1,
            create_time=time,
            update_time=time,
        )
        async with self.db.write(self.org_id) as tx:
            tx.add(endpoint)
        return endpoint_id

    async def happen(self, count: int = 1) -> None:
        async with self.db.write(self.org_id) as tx:
            for _ in range(count):
                append(tx, event_pb2.EVENT_TYPE_ORG_UPDATED)

    async def deliver(self, endpoint_id: UUID) -> None:
        await self.deliveries.deliver(str(self.org_id), str(endpoint_id))

    async def find(self, endpoint_id: UUID) -> WebhookEndpoint:
        async with self.db.read(self.org_id) as tx:
            found = await store.find_endpoint(tx, endpoint_id)
        assert found
        return found

    async def list(self, endpoint_id: UUID) -> list[WebhookDelivery]:
        """Deliveries, oldest event first."""
        async with self.db.read(self.org_id) as tx:
            return [row[0] for row in reversed(await store.list_deliveries(tx, endpoint_id, None, 1000))]

    async def queue_of(self, endpoint_id: UUID) -> str:
        """The queue in which the endpoint's job waits; empty without one."""
        waiting = (
            "SELECT queue_name FROM procrastinate_jobs WHERE args->>'webhook_endpoint_id' = %s AND status = 'todo'"
        )
        found = await sql(self.stores, waiting + " AND task_name = 'webhooks.deliver'", str(endpoint_id))
        assert len(found) <= 1
        return str(found[0][0]) if found else ""

    async def take_job(self, endpoint_id: UUID) -> None:
        """Let a worker have taken the job."""
        await sql(
            self.stores, "DELETE FROM procrastinate_jobs WHERE args->>'webhook_endpoint_id' = %s", str(endpoint_id)
        )


@pytest.fixture(scope="module")
async def _stores(stores: Stores) -> Stores:
    return await migrated_databases(stores, "webhooks")


@pytest.fixture
async def bench(_stores: Stores, settings: Settings) -> AsyncIterator[Bench]:
    db, jobs, clock = Database(_stores.postgres), Jobs(_stores.postgres), Clock()
    egress = Egress(settings.egress_allowed_networks or ())
    secrets = Secrets(Vault.from_settings(settings))
    notices = Notices(db, jobs, make_mailer(settings))
    deliveries = Deliveries(db, jobs, Sender(egress, secrets, clock), notices, clock)
    notices.register()
    deliveries.register()
    db.before_commit = (Outbox(deliveries.fan_out).before_commit,)
    org_id = new_id()
    await sql(
        _stores, "INSERT INTO orgs (id, name, create_time, update_time) VALUES (%s, 'Acme', now(), now())", org_id
    )
    yield Bench(_stores, db, secrets, deliveries, clock, org_id)
    egress.close()
    await db.close()
