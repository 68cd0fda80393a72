"""The events of a run in memory, and everybody who listens.

All readers share one list, each with a position of its own: a slow reader holds up nobody and costs nothing.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from uuid import UUID

from . import events


class Feed:
    """Events in order. Readers see those that are shown; the others wait until it is sure that they will stay."""

    def __init__(self, org_id: UUID, run_id: UUID, said: Iterable[bytes] = ()) -> None:
        self.org_id = org_id
        self.run_id = run_id
        self.events = list(said)
        self.shown = len(self.events)  # how many of them
        self.cut = False  # whether readers end where they are, since what follows is told elsewhere
        self.ended = asyncio.Event()
        self._changed = asyncio.get_running_loop().create_future()
        self._beats = 0
        self._quiet_seconds = 0

    @property
    def next_sequence(self) -> int:
        return len(self.events) + 1

    def append(self, event: bytes) -> None:
        """Adds an encoded event and wakes the readers."""
        self.events.append(event)
        if self.may_show():
            self.show()

    def may_show(self) -> bool:
        return True

    def show(self) -> None:
        """Lets readers have all that there is."""
        if self.shown < len(self.events):
            self.shown = len(self.events)
            self._quiet_seconds = 0
            self._wake()

    def end(self) -> None:
        """No event follows: readers come to their end."""
        self.ended.set()
        self._wake()

    def break_off(self) -> None:
        """Readers end where they are."""
        self.cut = True
        self.end()

    def beat(self, seconds: int) -> None:
        """Called once a second. Sends readers a heartbeat when nothing was sent for as long as `seconds`."""
        self._quiet_seconds += 1
        if self._quiet_seconds >= seconds:
            self._quiet_seconds = 0
            self._beats += 1
            self._wake()

    async def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        """Events from the one that follows `after`, to the last, and heartbeats in between."""
        position, beats = after, self._beats
        while not self.cut:
            if position < self.shown:
                position += 1
                yield self.events[position - 1]
                continue
            if self.ended.is_set():
                return
            if beats != self._beats:
                beats = self._beats
                yield events.encode(self.run_id, position, heartbeat={})
                continue
            await self.change()

    async def change(self) -> None:
        """Waits for whatever happens next."""
        await asyncio.shield(self._changed)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.get_running_loop().create_future()
        changed.set_result(None)
