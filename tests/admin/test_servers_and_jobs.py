"""What operators see of processes and background jobs, and what they may do with jobs."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from uuid import UUID, uuid4

import pytest

from aiworkspace.v1 import admin_pb2 as pb
from aiworkspace_server.admin.jobs import cancel as cancel_job
from aiworkspace_server.admin.jobs import job_to_proto
from aiworkspace_server.app import App, running
from aiworkspace_server.kit.jobs import Jobs
from aiworkspace_server.kit.postgres import Database
from aiworkspace_server.settings import Settings
from tests.standin import Standin
from tests.support.audit_log import Log
from tests.support.operators import appoint, operator_events
from tests.support.outcomes import INVALID, JOB_STATE, NOT_FOUND, OK, outcome, refusal
from tests.support.pagination import read_all
from tests.support.people import Person, Place, make_org, make_place, people
from tests.support.postgres import sql
from tests.support.runs import OPENAI, first_deltas, send, talk
from tests.support.settings import provider_settings, store_settings
from tests.support.stores import Stores, migrated_databases, other_databases
from tests.support.waiting import until


async def servers(operator: Person) -> list[pb.Server]:
    return list((await operator.admin.ListServers(pb.ListServersRequest())).servers)


async def test_the_servers_that_run_are_listed(operator: Person, app: App, place: Place, standin: Standin) -> None:
    [found] = await until(lambda: _all_with_addresses(operator, 1))
    assert (found.address, found.version, found.draining) == (app.address, version("aiworkspace"), False)
    assert found.server_id == str(app.engine.deps.server_id)
    assert found.name.rpartition("/")[2].isdecimal()
    enough = talk(standin)
    stream = send(place, model=OPENAI)
    await first_deltas(stream, 1)

    async def is_busy() -> bool:
        return (await servers(operator))[0].run_count >= 1

    assert await until(is_busy)
    enough.set()
    stream.cancel()


async def test_a_server_whose_lease_has_ended_is_not_listed(operator: Person, stores: Stores) -> None:
    gone = uuid4()
    row = "INSERT INTO servers (id, name, start_time, lease_end_time) VALUES (%s, 'gone/1', now(), now())"
    await sql(stores, row, gone)
    assert str(gone) not in {each.server_id for each in await servers(operator)}
    await sql(stores, "DELETE FROM servers WHERE id = %s", gone)


async def test_a_server_that_stops_says_so(stores: Stores, standin: Standin) -> None:
    own = await other_databases(stores, "draining")
    values = provider_settings(standin) | store_settings(own) | {"redis_url": stores.redis}
    settings = Settings.model_validate(values)
    async with running(settings, migrating=True) as one, people(one.address) as new_person:
        operator, place = await appoint(own, new_person), await make_place(await new_person())
        enough = talk(standin)
        async with running(settings, migrating=False) as two:
            assert {each.address for each in await until(lambda: _all_with_addresses(operator, 2))} == {
                one.address,
                two.address,
            }
            stream = send(place, model=OPENAI)
            await first_deltas(stream, 1)
            closing = asyncio.create_task(one.engine.manager.close(60))

            async def drains() -> bool:
                return any(each.draining and each.address == one.address for each in await servers(operator))

            assert await until(drains)
            enough.set()
            await closing


async def _all_with_addresses(operator: Person, count: int) -> list[pb.Server]:
    found = [each for each in await servers(operator) if each.address]
    return found if len(found) == count else []


# Jobs. They are in queues that no worker of the server takes from, except where one is to be interrupted.


@dataclass(frozen=True)
class Bench:
    """Jobs about an organization, and its owner."""

    owner: Person
    org_id: str
    db: Database
    jobs: Jobs

    async def enqueue(self, **arguments: object) -> str:
        async with self.db.write() as tx:
            await self.jobs.enqueue(tx, "tests.work", org_id=self.org_id, **arguments)
        return self.org_id


@pytest.fixture
async def bench(app: App, owner: Person, stores: Stores) -> AsyncIterator[Bench]:
    jobs = Jobs(stores.postgres)

    async def work(**arguments: str) -> None:
        """Done by nobody."""

    jobs.add("tests.work", work, "nobody")
    yield Bench(owner, await make_org(owner), app.db, jobs)
    await sql(stores, "DELETE FROM procrastinate_jobs WHERE queue_name = 'nobody'")


async def list_jobs(operator: Person, **wanted: Any) -> list[pb.Job]:
    request = pb.ListJobsRequest(page_size=1000, **wanted)
    return list((await operator.admin.ListJobs(request)).jobs)


async def only_job(operator: Person) -> pb.Job:
    [job] = await list_jobs(operator, task="tests.work")
    return job


def retry(operator: Person, job_id: str) -> Any:
    return operator.admin.RetryJob(pb.RetryJobRequest(job_id=job_id))


def cancel(operator: Person, job_id: str) -> Any:
    return operator.admin.CancelJob(pb.CancelJobRequest(job_id=job_id))


async def put(stores: Stores, status: str, **more: object) -> None:
    if status == "doing":  # by a worker that is alive: jobs of others are soon due again
        more["worker_id"] = (await sql(stores, "SELECT max(id) FROM procrastinate_workers"))[0][0]
    columns = "".join(f", {name} = '{value}'" for name, value in more.items())
    change = f"UPDATE procrastinate_jobs SET status = '{status}'{columns} WHERE task_name = 'tests.work'"
    await sql(stores, change)


async def test_a_job_is_shown_with_ids_alone(operator: Person, bench: Bench, stores: Stores) -> None:
    workspace_id = uuid4()
    await bench.enqueue(workspace_id=workspace_id, purpose="verify", until="2026-01-01T00:00:00")
    job = await only_job(operator)
    assert UUID(job.job_id).hex.lstrip("0").isdecimal()
    assert (job.queue, job.state, job.org_id) == ("nobody", pb.JOB_STATE_WAITING, bench.org_id)
    assert dict(job.resources) == {"workspace_id": str(workspace_id)}
    assert job.create_time == job.update_time
    assert not job.HasField("due_time")
    await put(stores, "todo", scheduled_at="2100-01-01Z")
    assert (await only_job(operator)).due_time.ToDatetime().year == 2100


STATES = {
    "todo": pb.JOB_STATE_WAITING,
    "doing": pb.JOB_STATE_RUNNING,
    "failed": pb.JOB_STATE_FAILED,
    "cancelled": pb.JOB_STATE_CANCELLED,
    "aborted": pb.JOB_STATE_CANCELLED,
}


@pytest.mark.parametrize(("status", "state"), STATES.items())
async def test_jobs_are_found_by_state(
    status: str, state: pb.JobState.ValueType, operator: Person, bench: Bench, stores: Stores
) -> None:
    await bench.enqueue()
    await put(stores, status)
    found = {each: bool(await list_jobs(operator, task="tests.work", state=each)) for each in pb.JobState.values()}
    assert found == {each: each in (0, state) for each in pb.JobState.values()}


async def test_jobs_are_listed_in_pages_newest_first(operator: Person, bench: Bench) -> None:
    for _ in range(5):
        await bench.enqueue(each=uuid4())
    rows = await read_all(operator.admin.ListJobs, pb.ListJobsRequest(task="tests.work"), "jobs", 2)
    assert len({row.job_id for row in rows}) == 5
    assert [row.job_id for row in rows] == sorted((row.job_id for row in rows), reverse=True)


@pytest.mark.parametrize("status", ["failed", "cancelled", "aborted", "todo"])
async def test_a_job_that_has_ended_or_waits_is_due_again(
    status: str, operator: Person, bench: Bench, stores: Stores
) -> None:
    await bench.enqueue()
    await put(stores, status, attempts=35, scheduled_at="2100-01-01Z")
    job = (await retry(operator, (await only_job(operator)).job_id)).job
    assert (job.state, job.attempt_count, job.HasField("due_time")) == (pb.JOB_STATE_WAITING, 0, False)
    assert await only_job(operator) == job


async def test_a_running_job_is_not_retried(operator: Person, bench: Bench, stores: Stores) -> None:
    await bench.enqueue()
    await put(stores, "doing")
    refused = await refusal(retry(operator, (await only_job(operator)).job_id))
    assert refused
    assert (refused.reason, refused.metadata) == ("JOB_STATE", {"state": "RUNNING"})


async def test_of_two_that_do_the_same_one_waits(operator: Person, bench: Bench, stores: Stores) -> None:
    await bench.enqueue()
    await put(stores, "failed", queueing_lock="the same")
    failed = await only_job(operator)
    await bench.enqueue()
    same = "UPDATE procrastinate_jobs SET queueing_lock = 'the same' WHERE task_name = 'tests.work' AND status = 'todo'"
    await sql(stores, same)
    assert await outcome(retry(operator, failed.job_id)) == JOB_STATE


async def test_a_waiting_job_is_cancelled(operator: Person, bench: Bench) -> None:
    await bench.enqueue()
    job_id = (await only_job(operator)).job_id
    cancelled = (await cancel(operator, job_id)).job
    assert cancelled.state == pb.JOB_STATE_CANCELLED
    assert (await cancel(operator, job_id)).job == cancelled, "once"


async def test_a_failed_job_is_not_cancelled(operator: Person, bench: Bench, stores: Stores) -> None:
    await bench.enqueue()
    await put(stores, "failed")
    assert await outcome(cancel(operator, (await only_job(operator)).job_id)) == JOB_STATE


async def test_a_running_job_is_interrupted(stores: Stores) -> None:
    """In databases of its own: a server would take the job and not know it."""
    own = await migrated_databases(stores, "interrupted")
    began, ended = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    db, jobs = Database(own.postgres), Jobs(own.postgres)
    jobs.add("tests.hang", hang)
    async with jobs.running(1):
        async with db.write() as tx:
            await jobs.enqueue(tx, "tests.hang")
        await began.wait()
        [(number,)] = await sql(own, "SELECT id FROM procrastinate_jobs WHERE task_name = 'tests.hang'")
        async with db.write() as tx:
            assert job_to_proto(await cancel_job(tx, number)).state == pb.JOB_STATE_STOPPING
        await ended.wait()
        await until(lambda: sql(own, "SELECT 1 FROM procrastinate_jobs WHERE id = %s AND status = 'failed'", number))
        async with db.write() as tx:
            assert job_to_proto(await cancel_job(tx, number)).state == pb.JOB_STATE_CANCELLED
    await db.close()


UNKNOWN = ("018f6f0e-0000-7000-8000-00000000000a", "99999999-9999-9999-9999-999999999999", str(UUID(int=0)))


@pytest.mark.parametrize("job_id", UNKNOWN)
async def test_unknown_jobs_are_not_found(job_id: str, operator: Person) -> None:
    assert await outcome(retry(operator, job_id)) == NOT_FOUND
    assert await outcome(cancel(operator, job_id)) == NOT_FOUND


async def test_a_number_is_no_id_of_a_job(operator: Person) -> None:
    assert await outcome(retry(operator, "4711")) == INVALID


async def test_both_logs_have_what_was_done_with_a_job(operator: Person, bench: Bench) -> None:
    await bench.enqueue()
    job_id = (await only_job(operator)).job_id
    assert await outcome(cancel(operator, job_id)) == OK
    assert await outcome(retry(operator, job_id)) == OK
    methods = ["AdminService/RetryJob", "AdminService/CancelJob"]
    theirs = (await Log(bench.owner, bench.org_id).events())[:2]
    assert [(e.method, e.role, e.user_id) for e in theirs] == [(method, "operator", "") for method in methods]
    for entries in (theirs, (await operator_events(operator, job_id))[:2]):
        assert [e.method for e in entries] == methods
        assert all(e.resources == {"job_id": job_id, "org_id": bench.org_id} for e in entries)
