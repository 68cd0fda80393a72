"""Clocks that step under two servers, and the library that makes them do so."""

from pathlib import Path
from random import Random

import pytest

from tests.support.programs import missing

from .clocks import Clock
from .experiments.clocks import of_servers_and_postgresql
from .site import site
from .verdict import Skipped

pytestmark = [pytest.mark.timeout(600), pytest.mark.waits]


async def test_clocks_that_step_lose_no_lease_and_no_run(tmp_path: Path) -> None:
    try:
        Clock(tmp_path)
    except Skipped as why:
        missing(str(why))
    async with site(tmp_path / "others", 90) as where:
        figures = await of_servers_and_postgresql(where, Random(1))
    assert figures.acknowledged > 0
    assert figures.faults() == []


def test_a_machine_without_the_library_is_a_reason_to_skip(tmp_path: Path) -> None:
    with pytest.raises(Skipped, match="libfaketime"):
        Clock(tmp_path, places=(str(tmp_path),))
