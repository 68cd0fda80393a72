"""Reading logs."""

import asyncio
from typing import Any

from aiworkspace.v1 import audit_pb2
from tests.support.people import Person


class Log:
    """An organization's log, as somebody reads it."""

    def __init__(self, reader: Person, org_id: str) -> None:
        self._reader = reader
        self._org_id = org_id

    async def events(self, **wanted: Any) -> list[Any]:
        """At most a thousand, the latest first."""
        request = audit_pb2.ListAuditEventsRequest(org_id=self._org_id, page_size=1000, **wanted)
        return list((await self._reader.audit.ListAuditEvents(request)).events)

    async def since(self, count: int) -> list[Any]:
        """Those after the first so many."""
        return [event for event in await self.events() if event.sequence > count]

    async def verify(self, sequence: int = 0, known_hash: str = "") -> audit_pb2.VerifyAuditChainResponse:
        request = audit_pb2.VerifyAuditChainRequest(org_id=self._org_id, known_sequence=sequence, known_hash=known_hash)
        verified: audit_pb2.VerifyAuditChainResponse = await self._reader.audit.VerifyAuditChain(request)
        return verified


async def account_events(person: Person) -> list[Any]:
    """Of the person's own account, the latest first."""
    request = audit_pb2.ListAccountEventsRequest(page_size=1000)
    return list((await person.audit.ListAccountEvents(request)).events)


async def account_event(person: Person, count: int) -> Any:
    """The latest one when there are so many: a refused sign-in is recorded after it is answered."""
    await until_recorded()
    events = await account_events(person)
    assert len(events) == count
    return events[0]


async def until_recorded() -> None:
    """Waits for what the servers of this process record after they answered."""
    while recording := [task for task in asyncio.all_tasks() if "Recorder." in repr(task.get_coro())]:
        await asyncio.wait(recording)
