"""The log through both clients."""

import asyncio
import uuid

from aiworkspace_client import AsyncClient, Client
from aiworkspace_server.app import App
from tests.people import PASSWORD


async def test_the_log_through_the_async_client(app: App) -> None:
    async with AsyncClient(app.address) as client:
        await client.auth.register(email=f"{uuid.uuid4()}@example.com", password=PASSWORD, display_name="Ada")
        org = await client.orgs.create(name="Engines")
        events = [event async for event in client.audit.list_events(org.org_id)]
        assert [event.method for event in events] == ["OrgService/CreateOrg"]
        verified = await client.audit.verify_chain(org.org_id)
        again = await client.audit.verify_chain(org.org_id, known_sequence=1, known_hash=verified.hash)
        assert (again.valid, again.sequence, again.hash) == (True, 1, events[0].hash)
        assert [event.code async for event in client.audit.list_account_events()] == ["OK"]


async def test_the_log_through_the_other_client(app: App) -> None:
    def read() -> list[str]:
        with Client(app.address) as client:
            client.auth.register(email=f"{uuid.uuid4()}@example.com", password=PASSWORD, display_name="Ada")
            org = client.orgs.create(name="Engines")
            assert client.audit.verify_chain(org.org_id).valid
            return [event.method for event in client.audit.list_events(org.org_id)]

    assert await asyncio.to_thread(read) == ["OrgService/CreateOrg"]
