"""Envoy as deploy/envoy has it, in front of two servers."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from aiworkspace.v1 import model_pb2
from aiworkspace_client import AsyncClient
from tests.standin import Script, Standin
from tests.support.people import PASSWORD, Person, Place, make_place
from tests.support.runs import OPENAI, events_of, kinds_of, play, send, text_of
from tests.support.server_process import ServerProcess
from tests.support.settings import openai_settings, store_settings
from tests.support.stores import Stores, migrated_databases
from tests.support.waiting import until, until_true

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "envoy" / "envoy.yaml"
# Longer than Envoy lets a call take by default, which is fifteen seconds.
LONG = Script(tokens=("word ",) * 160, seconds_per_token=0.1)


@dataclass(frozen=True)
class Behind:
    address: str  # of Envoy
    servers: list[ServerProcess]


def configured(port: int, servers: list[ServerProcess]) -> dict[str, Any]:
    """The configuration as it is, but for addresses."""
    configuration: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text())
    resources = configuration["static_resources"]
    resources["listeners"][0]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    addresses = [server.address.rpartition(":") for server in servers]
    resources["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(number)}}}}
        for host, _, number in addresses
    ]
    return configuration


@asynccontextmanager
async def envoy(folder: Path, servers: list[ServerProcess]) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "envoy.yaml").write_text(yaml.safe_dump(configured(port, servers)))
    program = Path(sys.executable).with_name("envoy")
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                "-c",
                folder / "envoy.yaml",
                "--concurrency",
                "1",
                "--base-id-path",
                folder / "id",
                "--use-dynamic-base-id",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
async def behind(stores: Stores, standin: Standin, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Behind]:
    own = await migrated_databases(stores, "behind_envoy")
    values = store_settings(own) | openai_settings(standin) | {"redis_url": stores.redis}
    values |= {"drain_seconds": 6, "shutdown_seconds": 60, "trusted_proxies": "127.0.0.0/8"}
    folder = tmp_path_factory.mktemp("envoy")
    servers = [ServerProcess(folder / str(number), values) for number in range(2)]
    await asyncio.gather(*(server.start() for server in servers))
    try:
        async with envoy(folder, servers) as address:
            yield Behind(address, servers)
    finally:
        for server in servers:
            if server.running:
                await server.end(signal.SIGKILL)


@pytest.fixture
async def home(behind: Behind) -> Place:
    async def register() -> Person | None:
        """Once Envoy has found out that the servers serve."""
        try:
            return await Person(behind.address).register()
        except grpc.aio.AioRpcError:
            return None

    person = await until(register)
    assert person
    return await make_place(person)


async def test_a_long_answer_streams_through(home: Place, standin: Standin) -> None:
    play(standin, OPENAI, LONG)
    stream = send(home, model=OPENAI)
    first = await stream.read()
    assert first.event.WhichOneof("event") == "run_started"
    events = await events_of(stream)
    assert kinds_of(events)[-1] == "run_completed"
    assert text_of(events) == "".join(LONG.tokens)
    assert kinds_of(events).count("content_delta") > 20, "token by token"


async def test_a_server_stops_under_load_and_no_call_fails(behind: Behind, home: Place, standin: Standin) -> None:
    play(standin, OPENAI, Script(tokens=("word ",) * 20, seconds_per_token=0.05))
    policy = model_pb2.ModelPolicy(resume_interrupted_runs=True)
    request = model_pb2.SetWorkspaceModelPolicyRequest(workspace_id=home.workspace_id, policy=policy)
    await home.owner.models.SetWorkspaceModelPolicy(request)
    leaving, staying = behind.servers
    enough, answers, calls = asyncio.Event(), 0, 0

    async def talk() -> None:
        nonlocal answers
        async with AsyncClient(behind.address) as client:
            await client.auth.login(email=home.owner.email, password=PASSWORD)
            while not enough.is_set():
                conversation = await client.chat.create_conversation(home.workspace_id)
                async with client.chat.send(conversation.conversation_id, "hello", model=OPENAI) as stream:
                    message = await stream.final_message()
                assert message.contents[0].text == "word " * 20
                answers += 1

    async def look() -> None:
        nonlocal calls
        async with AsyncClient(behind.address) as client:
            await client.auth.login(email=home.owner.email, password=PASSWORD)
            while not enough.is_set():
                await client.orgs.get(home.org_id)
                calls += 1

    async with asyncio.TaskGroup() as group:
        for work in (talk, talk, talk, look, look):
            group.create_task(work())
        await until_true(lambda: answers >= 3)
        code = await leaving.end(signal.SIGTERM)
        seen = answers
        await until_true(lambda: answers >= seen + 6)
        enough.set()
    assert code == 0
    assert staying.running
    assert calls > 50
