"""Ids that are in order whatever a clock does."""

from uuid import UUID

from aiworkspace_server.kit.ids import id_after, new_id, time_of

_AN_HOUR = 3_600_000 << 80  # of milliseconds, where an id has them


def test_an_id_after_one_of_a_clock_that_was_ahead_is_greater_and_nearly_as_late() -> None:
    ahead = UUID(int=new_id().int + _AN_HOUR)
    first = id_after(ahead)
    second = id_after(first)
    assert ahead < first < second
    assert (second.version, second.variant) == (7, ahead.variant)
    assert (time_of(second) - time_of(ahead)).total_seconds() == 0.002


def test_an_id_after_an_earlier_one_or_none_has_the_present_time() -> None:
    before = new_id()
    for made in (id_after(before), id_after(None), id_after(UUID(int=before.int - _AN_HOUR))):
        assert made > before
        assert abs((time_of(made) - time_of(before)).total_seconds()) < 60
