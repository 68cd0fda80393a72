"""A few of the experiments, and what holds of every method while a database is gone. `make faults` does them all."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

import grpc
import pytest

from tests.support.surface import ENDPOINTS, name_of

from .experiments import EXPERIMENTS
from .experiments.replacements import replace
from .site import Site, site
from .trial import trial

_END_SECONDS = 90.0  # how fast a recovery is shows where nothing else runs
_NAMES = (
    "kill -9 while the answer is stored",
    "kill -9 of one of two at any moment",
    "kill -9 of one of two, the other goes on",
    "provider breaks off: error, reset, end",
    "provider counts nothing, or nonsense",
    "one of two frozen for 7 s in the middle",
    "another model goes on with an answer",
    "another model is asked beside",
    "clients cancel at any token",
    "clients read nothing",
    "a hundred runs at once, a budget for ten",
    "kill -9 of everything",
    "link to PostgreSQL: reset again and again",
    "link to PostgreSQL: silent",
    "link to Redis: reset again and again",
    "PostgreSQL has no connections left",
    "documents: kill -9 while they are chunked",
    "documents: kill -9 while they are embedded",
)
_DEFECTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED}

pytestmark = [pytest.mark.timeout(600), pytest.mark.waits]


@pytest.fixture(scope="module")
async def where(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with site(tmp_path_factory.mktemp("faults"), _END_SECONDS) as where:
        yield where


@pytest.mark.parametrize("name", _NAMES)
async def test_nothing_is_lost_and_the_ledger_is_the_bill(name: str, where: Site) -> None:
    figures = await EXPERIMENTS[name](where, Random(name))
    assert figures.acknowledged > 0
    assert figures.faults() == []


async def test_workers_are_replaced_again_and_again_under_load(where: Site) -> None:
    figures = await replace(where, Random(1), seconds=1)
    assert figures.acknowledged > 0
    assert figures.faults() == []


@pytest.mark.parametrize("name", ["postgres", "mongo", "redis"])
async def test_every_method_ends_with_a_status_while_a_database_is_gone(name: str, where: Site) -> None:
    async with trial(where, {"redis_url": where.redis.url, "rate_limit_factor": 1000}) as at:
        ids = {"org_id": at.org_id, "workspace_id": at.workspace_id, "user_id": at.asker.now.user_id}
        store = getattr(where, name)
        store.kill()
        try:
            calls = [each.call(at.asker.now, each.request(ids, optional=False)) for each in ENDPOINTS]
            outcomes = dict(zip(map(name_of, ENDPOINTS), await asyncio.gather(*calls), strict=True))
        finally:
            await store.restart()
    assert {name: outcome for name, outcome in outcomes.items() if outcome.code in _DEFECTS} == {}
