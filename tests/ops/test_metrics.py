"""/metrics of a server with workers."""

import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from aiworkspace.v1 import org_pb2, usage_pb2
from aiworkspace_server.llm import catalog
from aiworkspace_server.rpc import SERVICES
from tests.standin import HttpError, Script, Standin
from tests.support.outcomes import UNAUTHENTICATED, outcome
from tests.support.people import Person, Place, make_place, reconnected
from tests.support.runs import OPENAI, events_of, kinds_of, play, send, talk
from tests.support.scrapes import Door
from tests.support.server_process import ServerProcess
from tests.support.settings import openai_settings
from tests.support.waiting import until, until_true
from tools import promql

COUNT = 2
SEND = "aiworkspace.v1.ChatService/SendMessage"


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory, standin: Standin) -> AsyncIterator[ServerProcess]:
    environment = openai_settings(standin) | {"password_hash_cost": 10, "shutdown_seconds": 0.5, "ops_port": 0}
    environment |= {"rate_limit_factor": 1000, "local_model_base_url": "http://127.0.0.1:9/v1"}  # where nobody listens
    data_dir = tmp_path_factory.mktemp("ops") / "data"
    async with ServerProcess(data_dir, environment, "--workers", str(COUNT)) as server:
        yield server


@pytest.fixture(scope="module")
def door(server: ServerProcess) -> Door:
    return Door(server)


@pytest.fixture(scope="module")
async def home(door: Door) -> Place:
    return await make_place(await Person(door.server.address).register())


async def test_an_answer_is_counted_as_the_ledger_has_it(door: Door, home: Place, standin: Standin) -> None:
    before = await door.scrape()
    play(standin, OPENAI, Script(tokens=("one ", "two ", "three ")))
    events = await events_of(send(home, model=OPENAI))
    completed = events[-1].run_completed.run
    model = {"provider": "openai", "model": "gpt-4o-mini"}
    scrape = await door.scrape()

    def more(name: str, **labels: str) -> float:
        return scrape.value(name, **labels) - before.value(name, **labels)

    assert more("aiws_attempts_total", outcome="completed", **model) == 1
    assert more("aiws_tokens_total", kind="input", **model) == completed.usage.input_tokens
    assert more("aiws_tokens_total", kind="output", **model) == completed.usage.output_tokens
    assert more("aiws_cost_nanos_total", currency="USD", **model) == completed.cost.nanos > 0
    assert more("aiws_first_token_seconds_count", **model) == 1
    assert more("aiws_rpc_seconds_count", method=SEND, code="OK") == 1
    usage = await home.owner.usage.GetUsage(usage_pb2.GetUsageRequest(org_id=home.org_id))
    assert scrape.value("aiws_cost_nanos_total") == usage.total.cost.nanos


async def test_refusals_failures_and_unknown_methods_are_counted(
    door: Door, server: ServerProcess, home: Place, standin: Standin
) -> None:
    before = await door.scrape()
    play(standin, OPENAI, Script(fault=HttpError(400)))
    assert kinds_of(await events_of(send(home, model=OPENAI)))[-1] == "run_failed"
    stranger = reconnected(home.owner, server.address)
    stranger.bearer.token = "wrong"
    assert await outcome(stranger.orgs.ListOrgs(org_pb2.ListOrgsRequest())) == UNAUTHENTICATED
    nothing: Any = stranger.channel.unary_unary("/aiworkspace.v1.NoService/Nothing")
    with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
        await nothing(b"")
    scrape = await door.scrape()
    assert scrape.value("aiws_attempts_total", outcome="provider_rejected") >= 1
    refused = {"method": "aiworkspace.v1.OrgService/ListOrgs", "code": "UNAUTHENTICATED"}
    assert scrape.value("aiws_rpc_seconds_count", **refused) == 1
    unknown = {"method": "other", "code": "UNIMPLEMENTED"}
    assert scrape.value("aiws_rpc_seconds_count", **unknown) == before.value("aiws_rpc_seconds_count", **unknown) + 1


async def test_a_model_that_nobody_lists_is_other(door: Door, home: Place) -> None:
    events = await events_of(send(home, model="local/anything-that-a-caller-writes"))
    assert kinds_of(events)[-1] == "run_failed"
    scrape = await door.scrape()
    assert scrape.value("aiws_attempts_total", provider="local", model="other") >= 1
    assert "anything" not in scrape.text


async def test_gauges_follow_runs_and_streams_and_leave_with_a_killed_worker(
    door: Door, server: ServerProcess, home: Place, standin: Standin
) -> None:
    talk(standin)
    stream = send(home, model=OPENAI)
    await stream.read()

    async def in_progress(count: int) -> bool:
        scrape = await door.scrape()
        return scrape.value("aiws_runs") == scrape.value("aiws_streams", method=SEND) == count

    await until(lambda: in_progress(1))
    before = await door.scrape()
    for pid in server.workers:
        os.kill(pid, signal.SIGKILL)
    await until_true(lambda: len(server.workers) == COUNT)
    await until(lambda: in_progress(0))
    after = await door.scrape()
    assert after.value("aiws_rpc_seconds_count") >= before.value("aiws_rpc_seconds_count") > 0


async def test_counters_survive_deaths_and_files_never_multiply(door: Door, server: ServerProcess, home: Place) -> None:
    directory = await until(lambda: _directory(server))
    assert directory

    async def files() -> int:
        """Of the workers that are there, once each has all of its own."""
        await until_true(lambda: len(server.workers) == COUNT)
        listed = [path.name for path in directory.iterdir()]
        return len(listed) if listed and len(listed) % COUNT == 0 else 0

    counted = (await door.scrape()).value("aiws_cost_nanos_total")
    count = await until(files)
    for _ in range(3):
        worker = server.workers[0]
        os.kill(worker, signal.SIGKILL)
        await until_true(lambda worker=worker: len(server.workers) == COUNT and worker not in server.workers)  # type: ignore[misc]
        assert (await door.scrape()).value("aiws_cost_nanos_total") == counted > 0
    server.send(signal.SIGUSR1)
    await until_true(lambda: server.log.read_text().count('"worker_replaced"') == COUNT)
    assert (await door.scrape()).value("aiws_cost_nanos_total") == counted
    numbers = {re.findall(r"_(\d+)\.db", path.name)[0] for path in directory.iterdir()}
    assert numbers <= {str(number) for number in range(1, 2 * COUNT + 1)}
    assert await until(files) <= 2 * count


async def _directory(server: ServerProcess) -> Path | None:
    """Of the files that the workers have mapped."""
    maps = "".join(Path(f"/proc/{pid}/maps").read_text() for pid in server.workers)
    found = re.findall(r"(/\S*aiworkspace-metrics-\w+)/", maps)
    return Path(found[0]) if found else None


async def test_labels_come_from_closed_sets(door: Door, home: Place) -> None:
    scrape = await door.scrape()
    methods = {f"{service.full_name}/{method.name}" for service in SERVICES for method in service.methods}
    outside = {"other"} | {method for method in scrape.labels("method") if method.startswith("grpc.")}
    assert scrape.labels("method") <= methods | outside
    assert scrape.labels("code") <= {code.name for code in grpc.StatusCode}
    assert scrape.labels("model") <= {"other", "echo", *catalog.names("openai")}
    for private in (home.org_id, home.workspace_id, home.conversation_id, home.owner.user_id, home.owner.email):
        assert private not in scrape.text
    allowed = {"method", "code", "provider", "model", "outcome", "kind", "currency", "task", "state", "step", "store"}
    assert {name for sample in scrape.samples for name in sample.labels} <= allowed | {"le"}


async def test_every_metric_is_documented_and_there(door: Door) -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"^\| `(aiws_\w+)", page, re.MULTILINE))

    async def there() -> set[str]:
        """Once the gauges are, which are measured every second and every ten."""
        families = (await door.scrape()).families
        names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
        return names if {"aiws_runs", "aiws_jobs"} <= names else set()

    assert await until(there) == documented


async def test_every_expression_of_the_dashboard_finds_its_metrics(door: Door, home: Place, standin: Standin) -> None:
    panels = json.loads((Path(__file__).parents[2] / "deploy" / "grafana" / "dashboard.json").read_text())["panels"]
    expressions = {panel["title"]: panel["targets"][0]["expr"] for panel in panels if panel["type"] == "timeseries"}
    play(standin, OPENAI, Script())
    first = promql.Scrape.parse(0, (await door.scrape()).text)

    async def found() -> bool:
        """Whether every panel shows something while people talk; of failed calls there may be none."""
        assert kinds_of(await events_of(send(home, model=OPENAI)))[-1] == "run_completed"
        await home.owner.orgs.GetOrg(org_pb2.GetOrgRequest(org_id=home.org_id))
        scrapes = [first, promql.Scrape.parse(60, (await door.scrape()).text)]
        nothing = {title for title, expr in expressions.items() if not promql.evaluate(expr, scrapes)}
        return nothing <= {"Calls that failed"}

    assert await until(found)
