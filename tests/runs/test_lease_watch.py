"""Leases are watched by the watcher's own clock, so that none is lost when that of the database steps."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.runs.leases import LEASE_SECONDS, LeaseWatch

_HOUR = timedelta(hours=1)


def _lease(end: datetime) -> Any:
    return SimpleNamespace(id=new_id(), name="other/1", lease_end_time=end)


class _Watch:
    def __init__(self) -> None:
        self.now = 100.0
        self.watch = LeaseWatch(lambda: self.now)

    def after(self, seconds: float, *leases: Any) -> list[Any]:
        self.now += seconds
        return self.watch.look(leases)


def test_a_lease_that_is_not_renewed_has_ended_once_it_was_watched_for_as_long_as_one_lasts() -> None:
    watch, lease = _Watch(), _lease(datetime.now(UTC) - _HOUR)
    assert watch.after(0, lease) == []
    assert watch.after(LEASE_SECONDS, lease) == []
    assert watch.after(0.1, lease) == [lease]
    assert watch.after(0, lease) == [lease]


def test_a_lease_that_is_renewed_lives_whatever_the_clock_of_the_database_does() -> None:
    watch, lease = _Watch(), _lease(datetime.now(UTC))
    for step in (timedelta(seconds=1), _HOUR, -_HOUR, -_HOUR):
        assert watch.after(LEASE_SECONDS, lease) == []
        lease.lease_end_time += step
        assert watch.after(0.2, lease) == []


def test_a_lease_that_was_gone_is_watched_from_its_return() -> None:
    watch, lease = _Watch(), _lease(datetime.now(UTC))
    watch.after(0, lease)
    assert watch.after(LEASE_SECONDS) == []
    assert watch.after(LEASE_SECONDS, lease) == []
