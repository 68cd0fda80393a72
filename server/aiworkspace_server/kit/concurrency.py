"""Limits of concurrent work: by service and organization with a fair queue, or by any key."""

import asyncio
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable
from uuid import UUID


class QueueFull(Exception):
    """The queue has no room for another waiter."""


class ConcurrencyLimiter:
    """Grants at most `per_service` slots of each service, and at most `per_org` of an organization over all services.

    Round robin between organizations, first in first out within one. An organization at its own limit never blocks
    another one.
    """

    def __init__(self, per_service: int, per_org: int, queue: int) -> None:
        self._total = per_service, per_org
        self._per_service, self._per_org = self._total
        self._queue = queue
        self._services: Counter[str] = Counter()
        self._orgs: Counter[UUID] = Counter()
        self._waiting: dict[str, OrderedDict[UUID, deque[Slot]]] = {}

    def resize(self, processes: int) -> None:
        """Take this process's share of the limits when several serve together. Granted slots stay granted."""
        self._per_service, self._per_org = (max(1, math.floor(total / processes)) for total in self._total)
        self._grant_waiting()

    def waiting(self, service: str) -> int:
        """Return how many slots of the service are queued."""
        return sum(map(len, self._waiting.get(service, {}).values()))

    def waiting_counts(self) -> Counter[str]:
        """Return how many slots of each service are queued."""
        return Counter({service: self.waiting(service) for service in self._waiting})

    @property
    def idle(self) -> bool:
        """Whether no slot is granted or queued."""
        return not self._waiting and not self._orgs

    def acquire(self, service: str, org_id: UUID, *, bounded: bool = True) -> "Slot":
        """Return a slot, perhaps still queued. Raises QueueFull if the queue is full and `bounded`."""
        slot = Slot(self, service, org_id)
        self._waiting.setdefault(service, OrderedDict()).setdefault(org_id, deque()).append(slot)
        self._grant_waiting()
        if bounded and not slot.granted and self._is_full(service, org_id):
            slot.release()
            raise QueueFull
        return slot

    def _is_full(self, service: str, org_id: UUID) -> bool:
        """When the queue is overfull, each waiting organization keeps an equal share of it."""
        turns = self._waiting[service]
        return self.waiting(service) > self._queue and len(turns[org_id]) * len(turns) > self._queue

    def release(self, slot: "Slot") -> None:
        """Called by the slot, once."""
        if slot.granted:
            self._services[slot.service] -= 1
            self._orgs[slot.org_id] -= 1
            if not self._orgs[slot.org_id]:
                del self._orgs[slot.org_id]
        else:
            self._remove(slot)
        self._grant_waiting()

    def _grant_waiting(self) -> None:
        for service in list(self._waiting):
            while self._services[service] < self._per_service and (slot := self._next(service)):
                self._services[service] += 1
                self._orgs[slot.org_id] += 1
                slot.grant()

    def _next(self, service: str) -> "Slot | None":
        """Remove the next slot from the queue, and move its organization to the end."""
        turns = self._waiting.get(service, OrderedDict())
        org_id = next((org_id for org_id in turns if self._orgs[org_id] < self._per_org), None)
        if org_id is None:
            return None
        turns.move_to_end(org_id)
        slot = turns[org_id][0]
        self._remove(slot)
        return slot

    def _remove(self, slot: "Slot") -> None:
        turns = self._waiting[slot.service]
        turns[slot.org_id].remove(slot)
        if not turns[slot.org_id]:
            del turns[slot.org_id]
        if not turns:
            del self._waiting[slot.service]


class Slot:
    """A granted or queued slot. Its holder must release it."""

    def __init__(self, limiter: ConcurrencyLimiter, service: str, org_id: UUID) -> None:
        self.service = service
        self.org_id = org_id
        self.granted = False
        self._limiter: ConcurrencyLimiter | None = limiter
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Wait until the slot is granted."""
        await self._event.wait()

    def grant(self) -> None:
        """Called by the limiter."""
        self.granted = True
        self._event.set()

    def release(self) -> None:
        """Release the slot, or leave the queue. Idempotent."""
        limiter, self._limiter = self._limiter, None
        if limiter:
            limiter.release(self)


class KeyedSemaphore:
    """A semaphore for each key, first in first out. It keeps nothing of a key that nobody holds."""

    def __init__(self, value: int) -> None:
        self._value = value
        self._held: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    def try_acquire(self, key: Hashable) -> bool:
        """Acquire without waiting. Returns False if that is not possible."""
        held = self._held.get(key, 0)
        if held >= self._value:
            return False
        self._held[key] = held + 1
        return True

    async def acquire(self, key: Hashable) -> None:
        """Acquire, after those who wait already."""
        if self.try_acquire(key):
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(key, turn)
            else:
                self.release(key)  # it was granted at the same time
            raise

    def release(self, key: Hashable) -> None:
        """Pass the slot on to the request that has waited longest. If none waits, free it."""
        if waiting := self._waiting.get(key):
            turn = waiting[0]
            self._leave(key, turn)
            if turn.cancelled():
                self.release(key)
            else:
                turn.set_result(None)
        elif self._held[key] == 1:
            del self._held[key]
        else:
            self._held[key] -= 1

    def _leave(self, key: Hashable, turn: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(key, deque())
        if turn in waiting:
            waiting.remove(turn)
        if not waiting:
            self._waiting.pop(key, None)
