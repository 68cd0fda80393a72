"""Reads events without gaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from aiworkspace.v1 import common_pb2

from ..kit.errors import OutOfRange
from ..kit.postgres import Database
from . import store
from .models import Event


@dataclass(frozen=True, slots=True)
class Found:
    events: Sequence[Event]
    last_sequence: int  # of the organization's latest event

    def position(self, after: int) -> int:
        """Return the number after which to read on, if this was read after `after`."""
        if self.events:
            return self.events[-1].sequence
        return after or self.last_sequence  # 0: none of the events before the latest one is kept


async def read(db: Database, org_id: UUID, after: int, limit: int) -> Found:
    """Return the events after a number; from the oldest on if it is 0.

    Raises OutOfRange if some of them are no longer kept, or if there is no event with this number yet.
    """
    async with db.read(org_id) as tx:
        last = await store.find_head(tx)  # first: an event that is appended meanwhile must not look like a deleted one
        events = await store.list_events(tx, after, limit)
    oldest = events[0].sequence if events else last + 1
    if after and after > last and not events:
        message = f"after_sequence: the latest event is {last}."
        raise OutOfRange(common_pb2.ERROR_REASON_SEQUENCE_AHEAD, message, metadata={"last_sequence": str(last)})
    if after and oldest > after + 1:
        message = f"after_sequence: the events up to {oldest - 1} are no longer kept. List what there is, and go on."
        metadata = {"oldest_sequence": str(oldest)}
        raise OutOfRange(common_pb2.ERROR_REASON_EVENTS_DELETED, message, metadata=metadata)
    return Found(events, max(last, events[-1].sequence if events else 0))
