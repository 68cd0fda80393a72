"""Passes over items: which failures they go on after."""

import psycopg
import pytest
from structlog.testing import capture_logs

from aiworkspace_server.kit.passes import Pass


def test_item_that_fails_keeps_no_other_from_being_done() -> None:
    this, done = Pass("things.tidy"), []
    with capture_logs() as logged:
        for number in range(6):
            with this.item(number=number):
                if number % 2:
                    raise ValueError("no")
                done.append(number)
    assert done == [0, 2, 4]
    assert this.failed == 3
    assert [(each["event"], each["job"], each["number"]) for each in logged] == [
        ("job_item_failed", "things.tidy", number) for number in ("1", "3", "5")
    ]


def test_items_that_meet_a_store_that_is_unavailable_end_the_pass() -> None:
    this, tried = Pass("things.tidy"), []

    def work() -> None:
        for number in range(9):
            with this.item(number=number):
                tried.append(number)
                if number != 2:
                    raise psycopg.OperationalError("gone")

    with pytest.raises(psycopg.OperationalError):
        work()
    assert tried == [0, 1, 2, 3, 4, 5], "two in a row may be chance"
