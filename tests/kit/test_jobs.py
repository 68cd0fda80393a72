"""Background jobs: that none is lost, none runs for a change that was not made, and the queue looks after itself."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from aiworkspace_server.kit.jobs import SLOW_QUEUE, Jobs
from aiworkspace_server.kit.postgres import APP_ROLE, Database
from tests.support.postgres import sql, until_no_jobs
from tests.support.stores import Stores, migrated_databases
from tests.support.waiting import until

EVERY_SECOND = "* * * * * *"


@dataclass
class Queue:
    """A queue of its own, and what its jobs did."""

    stores: Stores
    db: Database
    ran: list[str] = field(default_factory=list)
    failures: int = 0  # that are yet to come
    hanging: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))  # released by each that began
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def worker(self, url: str = "") -> Jobs:
        jobs = Jobs(url or self.stores.postgres)
        jobs.add("note", self.note)
        return jobs

    async def note(self, word: str) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("not yet")
        self.ran.append(word)

    async def tick(self) -> None:
        await self.note("tick")

    async def hang(self, number: str) -> None:
        self.hanging.release()
        await self.go_on.wait()

    async def fill(self, jobs: Jobs, count: int) -> None:
        """Enqueue jobs that hang."""
        async with self.db.write() as tx:
            for number in range(count):
                await jobs.enqueue(tx, "hang", number=number)

    async def put(self, *words: str) -> None:
        async with self.db.write() as tx:
            for word in words:
                await self.worker().enqueue(tx, "note", word=word)

    async def until_ran(self, count: int = 1) -> None:
        async with asyncio.timeout(60):
            while len(self.ran) < count:
                await asyncio.wait([asyncio.create_task(asyncio.sleep(0.01))])

    async def rows(self, columns: str = "status") -> list[tuple[object, ...]]:
        return await sql(self.stores, f"SELECT {columns} FROM procrastinate_jobs WHERE task_name = 'note' ORDER BY id")


@pytest.fixture(scope="module")
async def migrated(stores: Stores) -> Stores:
    return await migrated_databases(stores, "jobs")


@pytest.fixture
async def queue(migrated: Stores) -> AsyncIterator[Queue]:
    await sql(migrated, "DELETE FROM procrastinate_jobs")
    db = Database(migrated.postgres)
    yield Queue(migrated, db)
    await db.close()


async def test_a_job_runs_when_its_transaction_is_committed_and_not_before(queue: Queue) -> None:
    async with queue.worker().running(60):
        async with queue.db.write() as tx:
            await queue.worker().enqueue(tx, "note", word="yes")
            await asyncio.sleep(0.3)
            assert queue.ran == []
        await queue.until_ran()
    assert queue.ran == ["yes"]
    assert await queue.rows() == [], "done jobs are deleted"


async def test_a_job_of_a_transaction_that_failed_never_runs(queue: Queue) -> None:
    async with queue.worker().running(60):
        with pytest.raises(DBAPIError):
            await _put_and_fail(queue)
        await queue.put("yes")
        await queue.until_ran()
    assert queue.ran == ["yes"]


async def _put_and_fail(queue: Queue) -> None:
    async with queue.db.write() as tx:
        await queue.worker().enqueue(tx, "note", word="no")
        await tx.execute(text("SELECT nothing"))


async def test_a_job_that_nobody_declared_cannot_be_asked_for(queue: Queue) -> None:
    with pytest.raises(Exception, match="cannot be imported"):
        async with queue.db.write() as tx:
            await queue.worker().enqueue(tx, "nothing")


async def test_a_job_that_fails_is_tried_again_later_and_later(queue: Queue) -> None:
    queue.failures = 2
    await queue.put("word")
    begin = time.monotonic()
    async with queue.worker().running(60):
        await queue.until_ran()
    assert time.monotonic() - begin > 3  # 1 s and 2 s


async def test_a_job_that_fails_for_a_day_is_given_up(queue: Queue) -> None:
    queue.failures = 2
    await queue.put("word")
    await sql(queue.stores, "UPDATE procrastinate_jobs SET attempts = 35 WHERE task_name = 'note'")
    async with queue.worker().running(60):
        while await queue.rows() != [("failed",)]:
            await queue.put()
    assert queue.failures == 1


async def test_two_workers_share_the_jobs(queue: Queue) -> None:
    words = [str(number) for number in range(100)]
    async with queue.worker().running(60), queue.worker().running(60):
        await queue.put(*words)
        await queue.until_ran(100)
    assert Counter(queue.ran) == Counter(words)


async def test_a_worker_survives_the_loss_of_its_connections(queue: Queue) -> None:
    async with queue.worker().running(60):
        name = make_url(queue.stores.postgres).database
        await queue.db.close()
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
        await sql(queue.stores, end, name)
        await queue.put("word")
        await queue.until_ran()
    assert queue.ran == ["word"]


async def test_what_a_dead_server_had_begun_is_tried_again_and_what_is_long_over_deleted(queue: Queue) -> None:
    await queue.put("left", "old")
    await sql(queue.stores, "UPDATE procrastinate_jobs SET status = 'doing' WHERE args->>'word' = 'left'")
    await sql(queue.stores, "UPDATE procrastinate_jobs SET status = 'failed' WHERE args->>'word' = 'old'")
    await sql(queue.stores, "UPDATE procrastinate_events SET at = at - interval '31 days'")
    await sql(queue.stores, "DELETE FROM procrastinate_periodic_defers")
    async with queue.worker().running(60):
        await queue.until_ran()
    assert queue.ran == ["left"]
    assert await queue.rows() == []


async def test_what_another_server_leaves_is_found_while_this_one_runs(queue: Queue) -> None:
    left = (
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args, status) VALUES ('default', 'note', %s, 'doing')"
    )
    async with queue.worker().running(60):
        for count, word in enumerate(("first", "second"), 1):
            await sql(queue.stores, left, f'{{"word": "{word}"}}')
            await queue.until_ran(count)
    assert queue.ran == ["first", "second"]


async def test_job_of_a_dead_server_ends_where_one_with_its_arguments_is_pending(queue: Queue) -> None:
    """A job that is enqueued once cannot be retried then, and the pending one would wait for it for ever."""
    jobs = queue.worker()
    jobs.add("once", queue.note, once=True)
    async with queue.db.write() as tx:
        await jobs.enqueue_once(tx, "once", word="first")
    await sql(queue.stores, "UPDATE procrastinate_jobs SET status = 'doing' WHERE task_name = 'once'")
    async with queue.db.write() as tx:
        for _ in range(2):
            await jobs.enqueue_once(tx, "once", word="first")
    assert len(await sql(queue.stores, "SELECT 1 FROM procrastinate_jobs WHERE task_name = 'once'")) == 2
    async with jobs.running(60):
        await queue.until_ran()
        await until_no_jobs(queue.stores)
    assert queue.ran == ["first"]


async def test_job_that_is_enqueued_once_and_fails_makes_room_for_the_next(queue: Queue) -> None:
    jobs = queue.worker()
    jobs.add("once", queue.note, once=True)
    queue.failures = 1
    async with jobs.running(60):
        for _ in range(2):
            async with queue.db.write() as tx:
                await jobs.enqueue_once(tx, "once", word="word")
            await until_no_jobs(queue.stores)
    assert queue.ran == ["word"]


async def test_a_job_in_progress_when_the_server_stops_is_done_by_the_next(queue: Queue) -> None:
    started = asyncio.Event()

    async def hang(word: str) -> None:
        started.set()
        await asyncio.sleep(60)

    slow = Jobs(queue.stores.postgres)
    slow.add("note", hang)
    await queue.put("word")
    async with slow.running(0.2):
        await started.wait()
        begin = time.monotonic()
    assert time.monotonic() - begin < 30, "it has 0.2 s, and would need 60"
    async with queue.worker().running(60):
        await queue.until_ran()


async def test_slow_jobs_that_fill_their_queue_keep_no_other_job_waiting(queue: Queue) -> None:
    jobs = queue.worker()
    jobs.add("hang", queue.hang, SLOW_QUEUE)
    async with jobs.running(60):
        await queue.fill(jobs, 30)
        for _ in range(10):
            await queue.hanging.acquire()
        await queue.put("word")
        await queue.until_ran()
        assert queue.ran == ["word"]
        queue.go_on.set()
        await until_no_jobs(queue.stores)


async def test_periodic_work_never_overlaps_and_does_not_pile_up(queue: Queue) -> None:
    running, most, go_on = 0, 0, asyncio.Event()

    async def linger() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go_on.wait()
        running -= 1
        queue.ran.append("pass")

    workers = [queue.worker() for _ in range(2)]
    for jobs in workers:
        jobs.every(EVERY_SECOND, "linger", linger)
    async with workers[0].running(60), workers[1].running(60):

        async def rows() -> list[tuple[object, ...]]:
            query = "SELECT status FROM procrastinate_jobs WHERE task_name = 'linger' ORDER BY status"
            return await sql(queue.stores, query)

        await until(rows)
        await asyncio.sleep(4)  # in which it would be enqueued four times
        assert await rows() == [("todo",), ("doing",)]
        go_on.set()
        await queue.until_ran(3)
    assert most == 1


async def test_periodic_work_goes_on_after_its_server_was_killed(queue: Queue) -> None:
    """Also where the work that finds jobs of dead servers was killed."""
    jobs = queue.worker()
    jobs.add("hang", queue.hang)
    jobs.every(EVERY_SECOND, "tick", queue.tick)
    periodic = "SELECT id FROM procrastinate_jobs WHERE task_name IN ('tick', 'jobs.tend')"
    await queue.fill(jobs, 10)  # as many as run at the same time, so that nothing periodic does
    async with jobs.running(60):
        for _ in range(10):
            await queue.hanging.acquire()
        queue.ran.clear()

        async def both_wait() -> bool:
            return len(await sql(queue.stores, periodic)) == 2

        await until(both_wait)
        killed = f"UPDATE procrastinate_jobs SET status = 'doing' WHERE id IN ({periodic}) RETURNING id"
        ids = [id for (id,) in await sql(queue.stores, killed)]
        queue.go_on.set()
        await queue.until_ran(2)

        async def none_is_left() -> bool:
            return not await sql(queue.stores, "SELECT 1 FROM procrastinate_jobs WHERE id = ANY (%s)", ids)

        assert await until(none_is_left, seconds=60)


async def test_periodic_work_that_fails_leaves_nothing_in_the_queue(queue: Queue) -> None:
    jobs, queue.failures = queue.worker(), 1
    jobs.every(EVERY_SECOND, "tick", queue.tick)
    async with jobs.running(60):
        await queue.until_ran()
    assert await sql(queue.stores, "SELECT 1 FROM procrastinate_jobs WHERE status = 'failed'") == []


async def test_an_idle_worker_stops_at_once(queue: Queue) -> None:
    async with queue.worker().running(60):
        await queue.put("word")
        await queue.until_ran()
        begin = time.monotonic()
    assert time.monotonic() - begin < 30, "jobs in progress would have 60"


async def test_the_servers_role_is_enough(queue: Queue) -> None:
    """Through a login that is a member of the server's role and of nothing else."""
    await sql(queue.stores, f"CREATE ROLE worker LOGIN IN ROLE {APP_ROLE}")
    url = make_url(queue.stores.postgres).set(username="worker").render_as_string(hide_password=False)
    queue.failures = 1
    await sql(queue.stores, "DELETE FROM procrastinate_periodic_defers")
    async with queue.worker(url).running(60):
        await queue.put("word")
        await queue.until_ran()
        await until_no_jobs(queue.stores)
    assert await sql(queue.stores, "SELECT 1 FROM procrastinate_jobs WHERE status = 'failed'") == []
    await sql(queue.stores, "DROP ROLE worker")
