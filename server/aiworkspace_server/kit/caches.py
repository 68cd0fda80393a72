"""Caches of the hot path."""

import time
from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class TtlCache(Generic[Key, Value]):
    """Keeps values for `seconds` after they were stored; of more than `size` the oldest are dropped.

    All entries live equally long, so that the order of storing is the order of expiry, and a look-up is one look into a
    dictionary. cachetools does the same in ten times the time.
    """

    def __init__(self, size: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._seconds = seconds
        self._clock = clock
        self._entries: dict[Key, tuple[float, Value]] = {}

    def get(self, key: Key) -> Value | None:
        """Return the value, or None if there is none or it has expired."""
        entry = self._entries.get(key)
        return entry[1] if entry and entry[0] > self._clock() else None

    def __contains__(self, key: Key) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry[0] > self._clock()

    def __setitem__(self, key: Key, value: Value) -> None:
        now, entries = self._clock(), self._entries
        entries.pop(key, None)
        entries[key] = now + self._seconds, value
        while len(entries) > self._size or next(iter(entries.values()))[0] <= now:
            del entries[next(iter(entries))]

    def remove(self, key: Key) -> None:
        """Forget the value, if there is one."""
        self._entries.pop(key, None)

    def remove_where(self, matches: Callable[[Key, Value], bool]) -> None:
        """Forget every value that matches."""
        for key, (_, value) in list(self._entries.items()):
            if matches(key, value):
                del self._entries[key]

    def clear(self) -> None:
        self._entries.clear()
