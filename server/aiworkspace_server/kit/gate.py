"""A gate in front of something that takes only so many at a time: whom it lets in, and in which order others wait."""

import asyncio
import math
from collections import Counter, OrderedDict, deque
from uuid import UUID


class GateFull(Exception):
    """More are waiting than the queue has room for."""


class Gate:
    """Lets in so many at a time for each service, and for each organization whatever the service.

    Organizations take turns; within one it is first come, first served. An organization that has all that it may have
    holds up nobody else.
    """

    def __init__(self, per_service: int, per_org: int, queue: int) -> None:
        self._whole = per_service, per_org
        self._per_service, self._per_org = self._whole
        self._queue = queue
        self._services: Counter[str] = Counter()
        self._orgs: Counter[UUID] = Counter()
        self._waiting: dict[str, OrderedDict[UUID, deque[Place]]] = {}

    def resize(self, processes: int) -> None:
        """Takes this process's share when several work beside each other. Who is inside stays."""
        self._per_service, self._per_org = (max(1, math.floor(whole / processes)) for whole in self._whole)
        self._let_in()

    def waiting(self, service: str) -> int:
        return sum(map(len, self._waiting.get(service, {}).values()))

    @property
    def idle(self) -> bool:
        """Whether nobody is inside, and nobody waits."""
        return not self._waiting and not self._orgs

    def enter(self, service: str, org_id: UUID, *, bounded: bool = True) -> "Place":
        """A place inside, or in the queue. Raises GateFull when that is full and `bounded`."""
        place = Place(self, service, org_id)
        self._waiting.setdefault(service, OrderedDict()).setdefault(org_id, deque()).append(place)
        self._let_in()
        if bounded and not place.inside and self._is_full(service, org_id):
            place.leave()
            raise GateFull
        return place

    def _is_full(self, service: str, org_id: UUID) -> bool:
        """When more wait than may, each organization that waits keeps an equal part of the queue."""
        turns = self._waiting[service]
        return self.waiting(service) > self._queue and len(turns[org_id]) * len(turns) > self._queue

    def leave(self, place: "Place") -> None:
        if place.inside:
            self._services[place.service] -= 1
            self._orgs[place.org_id] -= 1
            if not self._orgs[place.org_id]:
                del self._orgs[place.org_id]
        else:
            self._remove(place)
        self._let_in()

    def _let_in(self) -> None:
        for service in list(self._waiting):
            while self._services[service] < self._per_service and (place := self._next(service)):
                self._services[service] += 1
                self._orgs[place.org_id] += 1
                place.let_in()

    def _next(self, service: str) -> "Place | None":
        """Takes who is next out of the queue and puts their organization last."""
        turns = self._waiting.get(service, OrderedDict())
        org_id = next((org_id for org_id in turns if self._orgs[org_id] < self._per_org), None)
        if org_id is None:
            return None
        turns.move_to_end(org_id)
        place = turns[org_id][0]
        self._remove(place)
        return place

    def _remove(self, place: "Place") -> None:
        turns = self._waiting[place.service]
        turns[place.org_id].remove(place)
        if not turns[place.org_id]:
            del turns[place.org_id]
        if not turns:
            del self._waiting[place.service]


class Place:
    """Somebody's place, inside or in the queue. Whoever has one has to leave it."""

    def __init__(self, gate: Gate, service: str, org_id: UUID) -> None:
        self.service = service
        self.org_id = org_id
        self.inside = False
        self._gate: Gate | None = gate
        self._opened = asyncio.Event()

    async def wait(self) -> None:
        """Until it is inside."""
        await self._opened.wait()

    def let_in(self) -> None:
        self.inside = True
        self._opened.set()

    def leave(self) -> None:
        """Gives the place free; more than once does no harm."""
        gate, self._gate = self._gate, None
        if gate:
            gate.leave(self)
