"""EventService: proto in and out."""

from collections.abc import AsyncIterator
from typing import Any

from aiworkspace.v1 import event_pb2 as pb
from aiworkspace.v1.event_pb2_grpc import EventServiceServicer

from ..kit.context import tenant_id
from ..kit.pages import Pages
from ..kit.postgres import Database
from ..kit.timestamps import timestamp
from .feed import Feed
from .models import Event
from .service import read
from .types import type_of

_BATCH = 100


class EventServicer(EventServiceServicer):
    def __init__(self, db: Database, feed: Feed, pages: Pages) -> None:
        self._db = db
        self._feed = feed
        self._pages = pages

    async def ListEvents(self, request: pb.ListEventsRequest, context: Any) -> pb.ListEventsResponse:
        key = self._pages.after(request)
        found = await read(self._db, tenant_id(), key[0] if key else request.after_sequence, self._pages.limit(request))
        rows, more = self._pages.cut(request, found.events, lambda event: [event.sequence])
        events = map(event_to_proto, rows)
        return pb.ListEventsResponse(events=events, next_page_token=more, last_sequence=found.last_sequence)

    async def WatchEvents(self, request: pb.WatchEventsRequest, context: Any) -> AsyncIterator[pb.WatchEventsResponse]:
        org_id, after = tenant_id(), request.after_sequence
        while True:
            found = await read(self._db, org_id, after, _BATCH)
            for event in found.events:
                yield pb.WatchEventsResponse(event=event_to_proto(event))
            after = found.position(after)
            if len(found.events) < _BATCH:
                await self._feed.wait(org_id, after)


def event_to_proto(event: Event) -> pb.Event:
    return pb.Event(
        org_id=str(event.org_id),
        sequence=event.sequence,
        event_id=str(event.id),
        type=type_of(event.type),
        create_time=timestamp(event.create_time),
        resources=event.resources,
    )
