"""The order in which pytest-xdist hands out the files of tests."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

_BESIDE = 2  # of the three workers of `make test`


def in_order(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the tests with the largest files first, and from the first on a file that waits beside two others.

    Files that wait take minutes with few tests and little work. Begun last, they would leave all other workers idle;
    begun all at once, the cores.
    """
    sizes = Counter(item.path for item in items)
    wait = {item.path for item in items if item.get_closest_marker("waits")}
    paths = [path for path, _ in sizes.most_common()]
    waiting, others = [path for path in paths if path in wait], [path for path in paths if path not in wait]
    order: list[Path] = []
    for number, path in enumerate(waiting):
        order += [path, *others[number * _BESIDE : (number + 1) * _BESIDE]]
    order += others[len(waiting) * _BESIDE :]
    places = {path: place for place, path in enumerate(order)}
    return sorted(items, key=lambda item: places[item.path])
