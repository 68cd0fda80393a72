"""Passes of periodic jobs over items: one that fails keeps no other from being done."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from .stores import STORE_UNAVAILABLE

_MOST_OUTAGES = 3  # one after the other, after which the items that are left would only wait for the store, too

log = structlog.get_logger("jobs")


class Pass:
    """One pass of a periodic job. The next one has the items that failed again, since they are still to be done."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._outages = 0
        self.failed = 0

    @contextmanager
    def item(self, **about: object) -> Iterator[None]:
        """Log the failure of what is done for an item. Raise it if several in a row met a store that is unavailable."""
        try:
            yield
        except STORE_UNAVAILABLE as error:
            self._outages += 1
            if self._outages >= _MOST_OUTAGES:
                raise
            self.failed += 1
            log.warning("job_item_failed", **self._fields(about), error=type(error).__name__, text=str(error))
        except Exception:
            self._outages = 0
            self.failed += 1
            log.exception("job_item_failed", **self._fields(about))
        else:
            self._outages = 0

    def _fields(self, about: dict[str, object]) -> dict[str, str]:
        return {"job": self._job, **{name: str(value) for name, value in about.items()}}
