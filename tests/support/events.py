"""Events of organizations: the calls, short enough for tables."""

import asyncio
from contextlib import suppress

import grpc

from aiworkspace.v1 import event_pb2 as pb
from tests.support.people import Person

NAMES = {
    value.number: value.name.removeprefix("EVENT_TYPE_").lower() for value in pb.EventType.DESCRIPTOR.values
}  # by type


async def list_events(person: Person, org_id: str, after: int = 0) -> list[pb.Event]:
    request = pb.ListEventsRequest(org_id=org_id, after_sequence=after, page_size=1000)
    return list((await person.events.ListEvents(request)).events)


async def told(person: Person, org_id: str, after: int = 0) -> list[tuple[str, dict[str, str]]]:
    """Types and ids of the events."""
    return [(NAMES[event.type], dict(event.resources)) for event in await list_events(person, org_id, after)]


async def last_sequence(person: Person, org_id: str) -> int:
    return int((await person.events.ListEvents(pb.ListEventsRequest(org_id=org_id))).last_sequence)


async def watch(person: Person, org_id: str, after: int, until: int) -> list[int]:
    """The numbers of the events from one after `after` to one in a stream."""
    request, seen = pb.WatchEventsRequest(org_id=org_id, after_sequence=after), list[int]()
    call = person.events.WatchEvents(request)
    async for response in call:
        seen.append(response.event.sequence)
        if seen[-1] >= until:
            break
    call.cancel()
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        await call.code()
    return seen
