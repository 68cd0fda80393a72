"""`serve --workers`: several processes behind one address."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import model_pb2
from aiworkspace_client import AsyncClient
from aiworkspace_server.databases import Databases
from aiworkspace_server.workers import Supervisor, WorkerFailedError
from tests.standin import Script, Standin
from tests.support.people import PASSWORD, Person, Place, make_conversation, make_place, reconnected
from tests.support.runs import OPENAI, events_of, follow, kinds_of, say, send, talk, text_of
from tests.support.server_process import ServerProcess
from tests.support.settings import openai_settings, store_settings
from tests.support.stores import Stores, empty_databases
from tests.support.waiting import until_true

MODEL = "openai/gpt-4o-mini"
WORDS = tuple(f"word{n} " for n in range(300))
COUNT = 2


@pytest.fixture(scope="module")
async def _process(tmp_path_factory: pytest.TempPathFactory, standin: Standin) -> AsyncIterator[ServerProcess]:
    environment = openai_settings(standin) | {"password_hash_cost": 10, "shutdown_seconds": 0.5}
    data_dir = tmp_path_factory.mktemp("workers") / "data"
    async with ServerProcess(data_dir, environment, "--workers", str(COUNT)) as server:
        yield server


@pytest.fixture
async def server(_process: ServerProcess, standin: Standin) -> ServerProcess:
    """A server with workers and databases of its own. Tests may end it as they like."""
    standin.script("gpt-4o-mini", Script(tokens=WORDS, seconds_per_token=0.02))
    return await _process.ensure_running()


@pytest.fixture
async def home(server: ServerProcess) -> Place:
    return await make_place(await Person(server.address).register())


async def test_a_run_is_followed_and_cancelled_over_any_connection(server: ServerProcess, home: Place) -> None:
    assert len(server.workers) == COUNT
    stream = send(home, model=MODEL)
    run_id = (await stream.read()).event.run_id
    readers = [
        reconnected(home.owner, server.address) for _ in range(8)
    ]  # with two workers, one in 256 times all with the same
    told = [asyncio.create_task(events_of(follow(reader, run_id))) for reader in readers]
    await asyncio.sleep(1)
    run = (await readers[0].chat.CancelRun(pb.CancelRunRequest(run_id=run_id))).run
    assert run.state == pb.RUN_STATE_CANCELLED
    for events in await asyncio.gather(*told):
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert kinds_of(events)[-1] == "run_cancelled"


async def test_a_worker_that_is_killed_comes_back_and_its_runs_end(server: ServerProcess, home: Place) -> None:
    async with AsyncClient(server.address) as client:
        await client.auth.login(email=home.owner.email, password=PASSWORD)
        stream = client.chat.send(home.conversation_id, "hello", model=MODEL)
        async with stream:
            before = server.workers
            assert len(before) == COUNT
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            events = [event async for event in stream]
    assert events[-1].run_failed.run.state == pb.RUN_STATE_INTERRUPTED
    await until_true(lambda: len(server.workers) == COUNT and not set(before) & set(server.workers))
    assert "worker_died" in server.log.read_text()
    there = reconnected(home.owner, server.address)
    assert kinds_of(await say(there, home.conversation_id, "on", model="echo/echo"))[-1] == "run_completed"


async def test_a_worker_that_hangs_is_replaced(server: ServerProcess, home: Place) -> None:
    hung, other = server.workers
    os.kill(hung, signal.SIGSTOP)
    await until_true(lambda: hung not in server.workers)
    await until_true(lambda: len(server.workers) == COUNT)
    assert other in server.workers
    assert server.log.read_text().count("worker_hung") == 1
    events = await say(reconnected(home.owner, server.address), home.conversation_id, "on", model="echo/echo")
    assert kinds_of(events)[-1] == "run_completed"


async def test_workers_stay_while_their_parent_is_stopped(server: ServerProcess) -> None:
    hangs = server.log.read_text().count("worker_hung")
    workers = server.workers
    server.send(signal.SIGSTOP)
    await asyncio.sleep(10)
    server.send(signal.SIGCONT)
    await asyncio.sleep(1)
    assert server.workers == workers
    assert server.log.read_text().count("worker_hung") == hangs


async def _elsewhere(server: ServerProcess, home: Place) -> Place:
    """Another conversation of the owner, over a connection of its own."""
    conversation_id = await make_conversation(home.owner, home.workspace_id)
    return replace(home, owner=reconnected(home.owner, server.address), conversation_id=conversation_id)


async def test_a_stop_under_load_loses_no_answer(server: ServerProcess, home: Place, standin: Standin) -> None:
    standin.script("gpt-4o-mini", Script(tokens=WORDS, seconds_per_token=0.01))
    places = [await _elsewhere(server, home) for _ in range(12)]
    streams = [send(place, model=MODEL) for place in places]
    run_ids = [(await stream.read()).event.run_id for stream in streams]
    readers = [reconnected(home.owner, server.address) for _ in run_ids]
    followers = [
        asyncio.create_task(events_of(follow(reader, run_id))) for reader, run_id in zip(readers, run_ids, strict=True)
    ]
    rest = [asyncio.create_task(events_of(stream)) for stream in streams]
    await asyncio.sleep(0.5)
    assert await server.end(signal.SIGTERM) == 0
    told = await asyncio.gather(*rest)
    for events, followed in zip(told, await asyncio.gather(*followers), strict=True):
        assert kinds_of(events)[-1] in ("run_failed", "run_completed")
        assert followed[1:] == events
    await server.start()
    person = Person(server.address)
    person.email = home.owner.email
    await person.log_in()
    for run_id, events in zip(run_ids, told, strict=True):
        stored = await events_of(follow(person, run_id))
        assert stored[1:] == events
        assert text_of(stored)


async def test_all_workers_read_their_keys_anew(server: ServerProcess) -> None:
    read = "token_keys_replaced"
    before = server.log.read_text().count(read)
    server.send(signal.SIGHUP)
    await until_true(lambda: server.log.read_text().count(read) == before + COUNT)
    lines = [line for line in server.log.read_text().splitlines() if read in line][before:]
    assert {json.loads(line)["worker"] for line in lines} == {1, 2}


async def test_workers_are_replaced_under_load_and_nobody_notices(
    server: ServerProcess, home: Place, standin: Standin
) -> None:
    policy = model_pb2.ModelPolicy(resume_interrupted_runs=True)
    request = model_pb2.SetWorkspaceModelPolicyRequest(workspace_id=home.workspace_id, policy=policy)
    await home.owner.models.SetWorkspaceModelPolicy(request)
    enough = asyncio.Event()
    standin.script("gpt-4o-mini", Script(tokens=WORDS, seconds_per_token=0.05, enough=enough, goes_on=True))
    before, replaced = server.workers, server.log.read_text().count('"worker_replaced"')

    async def ask(number: int) -> str:
        async with AsyncClient(server.address) as client:
            await client.auth.login(email=home.owner.email, password=PASSWORD)
            conversation = await client.chat.create_conversation(home.workspace_id, title=str(number))
            async with client.chat.send(conversation.conversation_id, "hello", model=MODEL) as stream:
                return (await stream.final_message()).contents[0].text

    asking = [asyncio.create_task(ask(number)) for number in range(8)]
    server.send(signal.SIGUSR1)
    server.send(signal.SIGUSR1)  # while it is done it is done once more
    await until_true(lambda: server.log.read_text().count('"worker_replaced"') >= replaced + COUNT)
    enough.set()
    assert await asyncio.gather(*asking) == ["".join(WORDS)] * 8
    assert not set(server.workers) & set(before)
    assert "worker_not_replaced" not in server.log.read_text()


async def test_a_second_signal_ends_the_workers_at_once(server: ServerProcess, home: Place, standin: Standin) -> None:
    talk(standin)
    await send(home, model=OPENAI).read()
    workers = server.workers
    server.send(signal.SIGTERM)
    await server.read_until("stopping")
    assert await server.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert await until_true(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers))


async def test_workers_end_with_their_parent(server: ServerProcess) -> None:
    workers = server.workers
    await server.end(signal.SIGKILL)
    assert await until_true(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers))


# What keeps it from starting


async def test_a_worker_that_cannot_be_forked_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_more(*_: Any, **__: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", no_more)
    with pytest.raises(WorkerFailedError):
        async with asyncio.timeout(120), Supervisor(Databases("", "", "", None), 0, 1, 1).running():
            pass


async def refused(folder: Path, environment: dict[str, object]) -> tuple[int, str]:
    """Exit code and standard error of a server with workers that cannot start."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aiworkspace_server", "serve", "--workers", "2"),
        cwd=folder,
        env=os.environ | {name.upper(): str(value) for name, value in environment.items()},
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    _, errors = await asyncio.wait_for(process.communicate(), 240)
    assert process.returncode is not None
    return process.returncode, errors.decode()


async def test_several_workers_without_redis_are_refused(stores: Stores, tmp_path: Path) -> None:
    code, errors = await refused(tmp_path, store_settings(stores))
    assert code == 2
    assert errors == "error: REDIS_URL is not set; several workers need Redis to reach each other's answers\n"


async def test_what_keeps_workers_from_starting_is_said_once(stores: Stores, tmp_path: Path) -> None:
    empty = await empty_databases(stores, "never_migrated")
    code, errors = await refused(tmp_path, store_settings(empty) | {"redis_url": stores.redis})
    assert code == 1
    assert errors.count("run the migrate command") == 1


async def test_a_port_that_is_taken_is_an_error(server: ServerProcess, stores: Stores, tmp_path: Path) -> None:
    taken = {"port": server.address.rpartition(":")[2], "redis_url": stores.redis}
    code, errors = await refused(tmp_path, store_settings(stores) | taken)
    assert code == 1
    assert "is another server running there" in errors
