"""/readyz, /livez and the health service."""

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from prometheus_client import Gauge

from aiworkspace.v1 import org_pb2
from aiworkspace_server.app import App, running
from aiworkspace_server.kit.condition import Condition
from aiworkspace_server.kit.jobs import Jobs
from aiworkspace_server.kit.metrics import Metrics
from aiworkspace_server.kit.postgres import Database
from aiworkspace_server.kit.probes import Probes
from aiworkspace_server.ops import ops_door
from aiworkspace_server.sampling import Sampler
from aiworkspace_server.settings import Settings
from tests.standin import Standin
from tests.support import store_processes
from tests.support.people import Person, make_place
from tests.support.postgres import sql
from tests.support.scrapes import Door
from tests.support.server_process import ServerProcess
from tests.support.settings import openai_settings, store_settings
from tests.support.store_processes import Store
from tests.support.stores import Stores, other_databases
from tests.support.waiting import until, until_true

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
CHAT, DOCUMENTS, ORGS = (f"aiworkspace.v1.{name}Service" for name in ("Chat", "Document", "Org"))
KNOWN_SECONDS = 3


@pytest.fixture(scope="module")
async def own_stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Store, Store, Store]]:
    own = store_processes.stores(tmp_path_factory.mktemp("probed"))
    await asyncio.gather(*(store.start() for store in own))
    yield own
    for store in own:
        await store.close()


@pytest.fixture(scope="module")
async def own_app(own_stores: tuple[Store, Store, Store]) -> AsyncIterator[App]:
    postgres, mongo, redis = own_stores
    values = store_settings(Stores(postgres.url, mongo.url, redis.url)) | {"redis_url": redis.url}
    async with running(Settings.model_validate(values), migrating=True) as app:
        yield app


@asynccontextmanager
async def health_of(address: str) -> AsyncIterator[Any]:
    """The stub of the health service. Its types have no methods."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield HealthStub(channel)


async def status_of(stub: Any, service: str) -> int:
    return int((await stub.Check(HealthCheckRequest(service=service))).status)


async def test_services_are_not_serving_while_a_store_that_they_need_is_away(
    own_app: App, own_stores: tuple[Store, Store, Store]
) -> None:
    _, mongo, redis = own_stores
    async with health_of(own_app.address) as stub:
        watching = stub.Watch(HealthCheckRequest(service=CHAT))
        assert (await watching.read()).status == SERVING
        redis.pause()
        mongo.pause()
        begin = time.monotonic()
        try:
            assert (await watching.read()).status == NOT_SERVING
            seconds = time.monotonic() - begin
            told = [await status_of(stub, name) for name in (DOCUMENTS, ORGS, "")]
        finally:
            mongo.go_on()
        assert told == [NOT_SERVING, SERVING, SERVING]
        assert (await watching.read()).status == SERVING
        redis.go_on()
        await until(lambda: _serving(stub, DOCUMENTS))
        assert seconds < KNOWN_SECONDS + 2  # of which two are the machine's, which may be busy


async def _serving(stub: Any, service: str) -> bool:
    return await status_of(stub, service) == SERVING


async def test_every_service_needs_postgres(own_app: App, own_stores: tuple[Store, Store, Store]) -> None:
    postgres, _, _ = own_stores
    async with health_of(own_app.address) as stub:
        watching = [stub.Watch(HealthCheckRequest(service=name)) for name in (CHAT, DOCUMENTS, ORGS)]
        assert [(await each.read()).status for each in watching] == [SERVING] * 3
        postgres.pause()
        try:
            assert [(await each.read()).status for each in watching] == [NOT_SERVING] * 3
            assert await status_of(stub, "") == SERVING
        finally:
            postgres.go_on()
        assert [(await each.read()).status for each in watching] == [SERVING] * 3


async def test_orgs_are_served_without_mongo(own_app: App, own_stores: tuple[Store, Store, Store]) -> None:
    _, mongo, _ = own_stores
    place = await make_place(await Person(own_app.address).register())
    mongo.pause()
    try:
        found = await place.owner.orgs.GetOrg(org_pb2.GetOrgRequest(org_id=place.org_id))
    finally:
        mongo.go_on()
    assert found.org.org_id == place.org_id


async def test_a_lost_lease_is_told() -> None:
    told = asyncio.Queue[dict[str, bool]]()
    holds = True

    async def check() -> None:
        if not holds:
            raise LookupError

    async def tell(up: object) -> None:
        assert isinstance(up, dict)
        told.put_nowait(dict(up))

    async with Probes({"lease": check}, tell).running():
        assert await told.get() == {"lease": True}
        holds = False
        assert await told.get() == {"lease": False}
        holds = True
        assert await told.get() == {"lease": True}


async def test_an_answer_that_does_not_come_is_none() -> None:
    told = asyncio.Event()

    async def tell(up: object) -> None:
        if up == {"store": False}:
            told.set()

    async with Probes({"store": asyncio.Event().wait}, tell).running():
        await told.wait()
    assert told.is_set()


def test_a_loop_that_stands_still_fails_after_ten_seconds() -> None:
    time_ = 100.0
    condition = Condition(lambda: time_)
    assert condition.failing == ""  # it is starting
    condition.beat()
    time_ += 10
    assert condition.failing == ""
    time_ += 1
    assert condition.failing == "the event loop has stood still for 11 s"
    condition.beat()
    assert condition.failing == ""


async def test_the_door_answers_while_the_loop_stands_still(settings: Settings) -> None:
    condition = Condition()
    condition.stuck = ["default"]
    own = settings.model_copy(update={"ops_port": 0})
    with ops_door(own, lambda: condition.unready, lambda: condition.failing) as door:
        assert door
        answers = {}
        for path in ("livez", "readyz"):
            with pytest.raises(HTTPError) as refused:
                urlopen(f"http://{door.address}/{path}")  # noqa: ASYNC210 - it blocks this loop
            answers[path] = refused.value.code, refused.value.read()
        condition.stuck, condition.unready = (), ""
        for path in ("livez", "readyz", "metrics"):
            with urlopen(f"http://{door.address}/{path}") as answer:  # noqa: ASYNC210
                assert answer.status == 200
    assert answers == {
        "livez": (503, b"nobody takes the jobs of default\n"),
        "readyz": (503, b"starting\n"),
    }
    assert not door.directory.exists()


def test_an_address_that_is_taken_is_refused(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        own = settings.model_copy(update={"ops_port": taken.getsockname()[1]})
        with pytest.raises(OSError, match="Set OPS_PORT or OPS_HOST"), ops_door(own, str, str):
            pass


async def test_jobs_that_nobody_takes_are_noticed(app: App, stores: Stores) -> None:
    own = await other_databases(stores, "untaken_jobs")
    db, jobs, condition = Database(own.postgres), Jobs(own.postgres), Condition()

    async def never() -> None:
        """Is not run: nobody works these jobs."""

    jobs.add("ops.never", never, "reading")
    metrics = Metrics()
    sampler = Sampler(metrics, condition, db, app.mongo, jobs, app.engine, [])
    try:
        async with jobs.enqueuing(), db.write() as tx:
            await jobs.enqueue(tx, "ops.never")
        queue = jobs.queues["reading"]
        queue.taken_time -= 120

        async def failing(*, works_jobs: bool = True) -> str:
            """After one look at the table."""
            metrics.job_oldest_seconds.set(-1)
            async with sampler.running(works_jobs=works_jobs):
                await until_true(lambda: read(metrics.job_oldest_seconds) >= 0)
            return condition.failing

        assert await failing() == ""  # it is due for less than a minute
        await sql(own, "UPDATE procrastinate_jobs SET scheduled_at = now() - interval '2 min'")
        assert await failing() == "nobody takes the jobs of reading"
        assert read(metrics.job_oldest_seconds) >= 120
        assert read(metrics.jobs.labels("ops.never", "todo")) == 1
        assert await failing(works_jobs=False) == ""
        queue.in_progress = 10  # it has no room for another one
        assert await failing() == ""
        queue.in_progress = 0
        await sql(own, "UPDATE procrastinate_jobs SET lock = 'a'")
        columns, values = "queue_name, task_name, lock, status", "'reading', 'x', 'a', 'doing'"
        await sql(own, f"INSERT INTO procrastinate_jobs ({columns}) VALUES ({values})")
        assert await failing() == ""  # it waits for another one
        await sql(own, "DELETE FROM procrastinate_jobs WHERE task_name = 'x'")
        assert await failing() == "nobody takes the jobs of reading"
        queue.taken_time += 120
        assert await failing() == ""  # it took another one a moment ago
    finally:
        await db.close()


def read(gauge: Gauge) -> float:
    [sample] = [sample for family in gauge.collect() for sample in family.samples]
    return sample.value


async def test_ready_and_alive_from_start_to_end(tmp_path: Path, standin: Standin) -> None:
    environment = openai_settings(standin) | {"ops_port": 0, "drain_seconds": 3600}
    async with ServerProcess(tmp_path / "data", environment) as server:
        door = Door(server)
        assert [await door.ask(path) for path in ("/readyz", "/livez")] == [(200, "ok\n"), (200, "ok\n")]
        person = await Person(server.address).register()
        server.send(signal.SIGTERM)
        await until(lambda: _says(door, "/readyz", (503, "stopping\n")))
        place = await make_place(person)  # it still serves
        assert (await place.owner.orgs.GetOrg(org_pb2.GetOrgRequest(org_id=place.org_id))).org.org_id == place.org_id
        assert await door.ask("/livez") == (200, "ok\n")
        async with health_of(server.address) as stub:
            assert await status_of(stub, "") == NOT_SERVING
        assert await server.end(signal.SIGTERM) == 128 + signal.SIGTERM  # the second one ends it at once


async def _says(door: Door, path: str, answer: tuple[int, str]) -> bool:
    return await door.ask(path) == answer
