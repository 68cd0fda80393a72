"""Clocks that are set while processes run: libfaketime gives them the time that a file says."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .verdict import Skipped

_PLACES = ("/usr/lib", "/usr/local/lib", "/lib")
_LIBRARY = "faketime/libfaketimeMT.so.1"


class Clock:
    """A wall clock of its own. `environment` is for the processes that are to have it."""

    def __init__(self, directory: Path, places: Sequence[str] = _PLACES) -> None:
        """Raises Skipped where libfaketime is in none of the places."""
        self._file = directory / "clock"
        self.set(0)
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(_library(places)),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """Let it go before the clock of the machine by so much, within a second."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.chmod(0o644)
        os.replace(fresh, self._file)


def _library(places: Sequence[str]) -> Path:
    for place in places:
        for found in sorted(Path(place).glob(f"*/{_LIBRARY}")) or [Path(place) / _LIBRARY]:
            if found.exists():
                return found
    raise Skipped("no clock can be set: libfaketime was not found: install the Debian package libfaketime")
