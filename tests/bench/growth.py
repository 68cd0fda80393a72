"""How much longer a call takes for an organization with a large table than for one with a small table."""

import time
from collections.abc import Awaitable, Callable, Mapping
from statistics import median
from typing import Any

from psycopg import AsyncConnection

from tests.support.people import Person, make_org, people

from .servers import Site
from .table import Row

_SMALL = 1_000

Fill = Callable[[AsyncConnection, Person, Mapping[int, str]], Awaitable[None]]
Ask = Callable[[Person, str, Mapping[str, Any]], Awaitable[None]]


async def compare(
    site: Site, quick: bool, what: str, questions: Mapping[str, Mapping[str, Any]], fill: Fill, ask: Ask
) -> Row:
    """Return the row of the question whose cost grows most.

    `fill` gets the ids of two organizations by their number of entries, `ask` the fields of a question. `what` names
    the row; {worst}, {large} and {small} are filled in.
    """
    large, calls = (100_000, 40) if quick else (1_000_000, 200)
    with site.server() as server:
        async with people(server.address) as new_person:
            owner = await new_person()
            orgs = {count: await make_org(owner) for count in (_SMALL, large)}
            url = site.stores["DATABASE_URL"].replace("+psycopg", "")
            async with await AsyncConnection.connect(url, autocommit=True) as database:
                await fill(database, owner, orgs)
            took = {name: await _took(owner, orgs, calls, ask, wanted) for name, wanted in questions.items()}
    worst = max(took, key=lambda name: took[name][large] / took[name][_SMALL])
    figures = [f"{name}: {each[large]:.2f} / {each[_SMALL]:.2f} ms" for name, each in took.items()]
    ratio = took[worst][large] / took[worst][_SMALL]
    named = what.format(worst=worst, large=f"{large:,}", small=f"{_SMALL:,}")
    return Row(named, ratio, 1.5, ["; ".join(figures)], least=False)


async def _took(
    owner: Person, orgs: Mapping[int, str], calls: int, ask: Ask, wanted: Mapping[str, Any]
) -> dict[int, float]:
    """Median milliseconds of a call by the number of entries, of calls that take turns."""
    times: dict[int, list[float]] = {count: [] for count in orgs}
    for _ in range(calls):
        for count, org_id in orgs.items():
            start = time.perf_counter()
            await ask(owner, org_id, wanted)
            times[count].append((time.perf_counter() - start) * 1000)
    return {count: median(each) for count, each in times.items()}
