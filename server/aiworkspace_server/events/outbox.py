"""Events of a change: collected during its transaction, numbered and stored at its end.

Numbers are dense because the organization's row in event_heads is locked from the numbering to the commit: a
transaction that is rolled back takes no number. The lock is taken last, so that writers wait for each other only
during the commit.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from uuid import UUID

from aiworkspace.v1 import event_pb2 as pb

from ..kit.ids import new_id
from ..kit.postgres import WriteSession, set_tenant
from ..kit.timestamps import now
from . import store
from .models import Event
from .types import name_of

_PENDING = "events"

# Called with the numbered events of an organization, in their transaction, whose tenant is the organization.
FanOut = Callable[[WriteSession, UUID, Sequence[Event]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Pending:
    """An event that has no number yet."""

    org_id: UUID
    id: UUID
    type: str
    resources: dict[str, str]


def append(
    tx: WriteSession, type: pb.EventType.ValueType, *, event_id: UUID | None = None, **resources: UUID | None
) -> UUID:
    """Add an event of the transaction's organization, which is stored when it commits. Return the event's id.

    `resources` are the ids that the type declares. Those that are None are left out.
    """
    ids = {name: str(id) for name, id in resources.items() if id}
    event = Pending(UUID(tx.info["org"]), event_id or new_id(), name_of(type), ids)
    tx.info.setdefault(_PENDING, []).append(event)
    return event.id


class Outbox:
    """Stores the events of each transaction."""

    def __init__(self, fan_out: FanOut) -> None:
        self._fan_out = fan_out

    async def before_commit(self, tx: WriteSession) -> None:
        """Number and store the events of the transaction. Organizations are locked in the order of their ids."""
        pending: list[Pending] = tx.info.pop(_PENDING, [])
        if not pending:
            return
        await tx.flush()
        tenant = UUID(tx.info["org"])
        pending.sort(key=lambda event: event.org_id)  # stable: those of one organization stay in order
        for org_id, group in groupby(pending, key=lambda event: event.org_id):
            await _enter(tx, org_id)
            await self._store(tx, org_id, list(group))
        await _enter(tx, tenant)

    async def _store(self, tx: WriteSession, org_id: UUID, pending: Sequence[Pending]) -> None:
        time = now()
        last = await store.append(tx, org_id, time, pending)
        if last is None:
            return
        numbers = range(last - len(pending) + 1, last + 1)
        events = [
            Event(
                org_id=org_id,
                sequence=sequence,
                id=event.id,
                type=event.type,
                create_time=time,
                resources=event.resources,
            )
            for sequence, event in zip(numbers, pending, strict=True)
        ]
        await self._fan_out(tx, org_id, events)


async def _enter(tx: WriteSession, org_id: UUID) -> None:
    if tx.info["org"] != str(org_id):
        await set_tenant(tx, org_id)
