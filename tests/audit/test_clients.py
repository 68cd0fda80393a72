"""The log through both clients, and what they may not ask of it."""

import asyncio
import uuid
from typing import Any

from aiworkspace.v1 import audit_pb2
from aiworkspace_client import AsyncClient, Client
from aiworkspace_server.app import App
from tests.support.outcomes import named
from tests.support.people import PASSWORD, NewPerson, make_org


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


async def test_what_no_log_can_hold_is_refused_by_name(new_person: NewPerson) -> None:
    person = await new_person()
    org_id = await make_org(person)
    for field in ("method", "code"):
        request: Any = audit_pb2.ListAuditEventsRequest(org_id=org_id)
        setattr(request, field, "\0")
        assert await named(person.audit.ListAuditEvents(request)) == (field,)
    noted: list[dict[str, Any]] = [{"known_sequence": 1}, {"known_hash": "00ff"}]
    for each in noted:
        verification = audit_pb2.VerifyAuditChainRequest(org_id=org_id, **each)
        assert await named(person.audit.VerifyAuditChain(verification)) == ("known_hash",)
