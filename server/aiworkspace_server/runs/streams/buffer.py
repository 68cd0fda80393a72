"""The events of a run in memory, and the readers who follow them.

All readers share one list, each with a position of its own, so a slow reader delays nobody and costs no memory.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from uuid import UUID

from .. import events


class EventBuffer:
    """Encoded events in order. Readers see the first `visible` of them: the others may still be lost to a takeover."""

    def __init__(self, org_id: UUID, run_id: UUID, stored: Iterable[bytes] = ()) -> None:
        self.org_id = org_id
        self.run_id = run_id
        self.events = list(stored)
        self.visible = len(self.events)
        self.detached = False  # readers stop where they are, since another process sends what follows
        self.ended = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._heartbeats = 0
        self._quiet_seconds = 0

    @property
    def next_sequence(self) -> int:
        return len(self.events) + 1

    def append(self, event: bytes) -> None:
        """Add an encoded event."""
        self.events.append(event)
        self.publish(len(self.events))

    def publish(self, count: int) -> None:
        """Make the first `count` events visible, and wake the readers."""
        if self.visible < count:
            self.visible = count
            self._quiet_seconds = 0
            self._wake()

    def end(self) -> None:
        """Readers finish after the last visible event."""
        self.ended.set()
        self._wake()

    def detach(self) -> None:
        """Readers finish where they are."""
        self.detached = True
        self.end()

    def tick(self, heartbeat_seconds: float) -> None:
        """Send readers a heartbeat if no event came for so long. To be called once a second."""
        self._quiet_seconds += 1
        if self._quiet_seconds >= heartbeat_seconds:
            self._quiet_seconds = 0
            self._heartbeats += 1
            self._wake()

    async def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        """Yield the events that follow `after` to the last one, and heartbeats in between."""
        position, heartbeats = after, self._heartbeats
        while not self.detached:
            if position < self.visible:
                position += 1
                yield self.events[position - 1]
                continue
            if self.ended.is_set():
                return
            if heartbeats != self._heartbeats:
                heartbeats = self._heartbeats
                yield events.encode(self.run_id, position, heartbeat={})
                continue
            await self.change()

    async def change(self) -> None:
        """Wait for the next event, heartbeat or end."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():  # its reader has gone
                each.set_result(None)
