"""Counts of rate limits in the memory of this process."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import floor

from limits.aio.storage import MemoryStorage


@dataclass(slots=True)
class _Windows:
    """The present window and the one before it, of all keys with the same length of window."""

    number: int = 0
    now: dict[str, int] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)

    def advance(self, number: int) -> None:
        """Begin the window of this number. If the clock was set back a little, the present window goes on."""
        if number not in (self.number, self.number - 1):
            self.before = self.now if number == self.number + 1 else {}
            self.number, self.now = number, {}


class WindowStorage(MemoryStorage):
    """Storage for sliding windows at a cost that does not depend on how many keys there are.

    The storage of the limits package starts a task at each hit, which looks through all keys for expired ones. Here a
    window is dropped as a whole once two others have followed it.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self._by_length: dict[int, _Windows] = {}

    def hit(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count a hit. Returns False, and counts nothing, if it would exceed the limit of `expiry` seconds."""
        windows, left = self._at(expiry)
        count = windows.now.get(key, 0)
        if floor(windows.before.get(key, 0) * left + count) + amount > limit:
            return False
        windows.now[key] = count + amount
        return True

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return self.hit(key, limit, expiry, amount)

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return the previous count and for how many seconds it still counts, and the same of the present window."""
        windows, left = self._at(expiry)
        before = windows.before.get(key, 0)
        return before, left * expiry if before else 0.0, windows.now.get(key, 0), (1 + left) * expiry

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        windows, _ = self._at(expiry)
        windows.now.pop(key, None)
        windows.before.pop(key, None)

    def _at(self, expiry: int) -> tuple[_Windows, float]:
        """Return the windows, and the part of the present one that is left: the weight of the previous one."""
        number, passed = divmod(self._clock(), expiry)
        windows = self._by_length.get(expiry)
        if windows is None:
            windows = self._by_length[expiry] = _Windows()
        windows.advance(int(number))
        return windows, 1 - passed / expiry
