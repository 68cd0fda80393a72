"""The search for deletions whose job is missing: however many there are, each has one job and others' work goes on."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from aiworkspace_server.chat.erasure import ChatEraser
from aiworkspace_server.erasure.jobs import ErasureJobs
from aiworkspace_server.kit.jobs import Jobs
from aiworkspace_server.kit.mongo import Mongo
from aiworkspace_server.kit.postgres import Database
from tests.support.postgres import sql
from tests.support.stores import Stores, migrated_databases

MANY = 3000


@dataclass
class Deletions:
    """Databases with conversations that were deleted long ago, and what looks for their jobs. No worker does any."""

    stores: Stores
    mongo: Mongo
    erasure: ErasureJobs

    async def make(self, count: int) -> None:
        deleted = datetime.now(UTC) - timedelta(hours=1)
        tombstone: dict[str, Any] = {"delete_time": deleted, "purge_time": None}
        documents = [{"_id": uuid.uuid4(), "org_id": uuid.uuid4(), **tombstone} for _ in range(count)]
        await self.mongo.database.conversations.insert_many(documents)

    async def jobs(self) -> Counter[str]:
        """How many jobs each conversation has."""
        rows = await sql(self.stores, "SELECT args->>'conversation_id' FROM procrastinate_jobs")
        return Counter(conversation_id for (conversation_id,) in rows)


@pytest.fixture(scope="module")
async def migrated(stores: Stores) -> Stores:
    return await migrated_databases(stores, "reconciled")


@pytest.fixture
async def deletions(migrated: Stores) -> AsyncIterator[Deletions]:
    db, mongo, unused = Database(migrated.postgres), Mongo(migrated.mongo), cast(Any, None)
    await sql(migrated, "DELETE FROM procrastinate_jobs")
    await mongo.database.conversations.delete_many({})
    jobs = Jobs(migrated.postgres)
    erasure = ErasureJobs(db, jobs, ChatEraser(db, mongo, unused, unused), unused, unused)
    erasure.register(jobs)
    yield Deletions(migrated, mongo, erasure)
    await mongo.close()
    await db.close()


async def test_passes_that_overlap_enqueue_one_job_for_each_deletion(deletions: Deletions) -> None:
    await deletions.make(100)
    await asyncio.gather(*[deletions.erasure.reconcile() for _ in range(4)])
    assert list((await deletions.jobs()).values()) == [1] * 100


async def test_many_deletions_have_their_jobs_after_several_passes_each_of_a_limited_size(deletions: Deletions) -> None:
    await deletions.make(MANY)
    await deletions.erasure.reconcile()
    assert 0 < len(await deletions.jobs()) <= 500
    while len(jobs := await deletions.jobs()) < MANY:
        await deletions.erasure.reconcile()
        assert len(await deletions.jobs()) > len(jobs)
    assert set(jobs.values()) == {1}


@pytest.mark.parametrize(
    ("change", "jobs"),
    [
        pytest.param("attempts = 12, scheduled_at = now() + interval '1 hour'", 1, id="put off"),
        pytest.param("status = 'failed'", 2, id="given up"),
    ],
)
async def test_a_deletion_has_another_job_only_if_its_first_one_was_given_up(
    change: str, jobs: int, deletions: Deletions
) -> None:
    await deletions.make(1)
    await deletions.erasure.reconcile()
    await sql(deletions.stores, f"UPDATE procrastinate_jobs SET {change}")
    await deletions.erasure.reconcile()
    assert list((await deletions.jobs()).values()) == [jobs]
