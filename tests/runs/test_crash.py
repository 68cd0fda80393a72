"""The server killed or stopped in the middle of an answer."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator

import grpc
import pytest

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import common_pb2, usage_pb2
from tests.standin import Script, Standin
from tests.support.people import Person, make_place
from tests.support.runs import events_of, first_deltas, follow, kinds_of, say, send, text_of
from tests.support.server_process import ServerProcess
from tests.support.settings import openai_settings

MODEL = "openai/gpt-4o-mini"
WORDS = tuple(f"word{n} " for n in range(1500))


@pytest.fixture(scope="module")
async def _process(tmp_path_factory: pytest.TempPathFactory, standin: Standin) -> AsyncIterator[ServerProcess]:
    environment = openai_settings(standin) | {"password_hash_cost": 10, "shutdown_seconds": 0.5}
    async with ServerProcess(tmp_path_factory.mktemp("crash") / "data", environment) as server:
        yield server


@pytest.fixture
async def server(_process: ServerProcess) -> ServerProcess:
    """A server that runs. Tests may end it as they like."""
    return await _process.ensure_running()


@pytest.fixture(autouse=True)
def half_a_minute(standin: Standin) -> None:
    """Answers take long."""
    standin.script("gpt-4o-mini", Script(tokens=WORDS, seconds_per_token=0.02))


async def test_kill_9_in_the_middle_of_an_answer(server: ServerProcess) -> None:
    person = await Person(server.address).register()
    place = await make_place(person)
    await say(person, place.conversation_id, "before", model="echo/echo")
    stream = person.chat.SendMessage(
        pb.SendMessageRequest(conversation_id=place.conversation_id, content="hello", model=MODEL)
    )
    seen = await first_deltas(stream, 60)  # more than a second: batches were stored
    run_id = seen[0].run_id
    await server.end(signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events_of(stream)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

    await server.start()
    again = Person(server.address)
    again.email = person.email
    await again.log_in()
    run = (await again.chat.GetRun(pb.GetRunRequest(run_id=run_id))).run
    assert run.state == pb.RUN_STATE_INTERRUPTED
    assert run.failure.reason == common_pb2.ERROR_REASON_RUN_INTERRUPTED
    messages = (await again.chat.ListMessages(pb.ListMessagesRequest(conversation_id=place.conversation_id))).messages
    assert [message.role for message in messages] == [1, 2, 1, 2]
    assert messages[2].contents[0].text == "hello"
    answer = messages[3]
    assert answer.state == pb.MESSAGE_STATE_PARTIAL
    assert answer.contents[0].text
    assert "".join(WORDS).startswith(answer.contents[0].text)

    stored = await events_of(follow(again, run_id))
    assert [event.sequence for event in stored] == list(range(1, len(stored) + 1))
    assert (kinds_of(stored)[0], kinds_of(stored)[-1]) == ("run_started", "run_failed")
    assert text_of(stored) == answer.contents[0].text
    resumed = pb.StreamRunRequest(run_id=run_id, after_sequence=seen[-1].sequence + 100)
    assert kinds_of(await events_of(again.chat.StreamRun(resumed))) == ["run_failed"]

    entries = (await again.usage.ListUsageEntries(usage_pb2.ListUsageEntriesRequest(org_id=place.org_id))).entries
    assert [entry.run_id for entry in entries].count(run_id) == 1
    assert (entries[0].estimated, entries[0].cost) == (True, run.cost)
    assert run.cost.nanos > 0
    assert kinds_of(await say(again, place.conversation_id, "on we go", model="echo/echo"))[-1] == "run_completed"


async def test_a_run_is_inspected_while_its_server_runs_and_after_it_was_killed(server: ServerProcess) -> None:
    person = await Person(server.address).register()
    place = await make_place(person)
    run_id = (await first_deltas(send(place, model=MODEL), 3))[0].run_id
    alive = json.loads(await server.command("inspect", "run", run_id, "--json"))
    assert (alive["run"]["state"], alive["claim"]["state"]) == ("running", "open")
    assert alive["claim"]["lease_seconds"] > 0
    await server.end(signal.SIGKILL)
    killed = json.loads(await server.command("inspect", "run", run_id, "--json"))
    assert (killed["run"]["state"], killed["claim"]["state"]) == ("running", "open")
    assert [entry["kind"] for entry in killed["ledger"]] == ["reserve"]


async def test_kill_9_right_after_the_first_event_loses_no_message(server: ServerProcess) -> None:
    person = await Person(server.address).register()
    place = await make_place(person)
    stream = person.chat.SendMessage(
        pb.SendMessageRequest(conversation_id=place.conversation_id, content="hello", model=MODEL)
    )
    run_id = (await stream.read()).event.run_id
    await server.end(signal.SIGKILL)
    await server.start()
    person = await _back(person, server)
    run = (await person.chat.GetRun(pb.GetRunRequest(run_id=run_id))).run
    assert run.state == pb.RUN_STATE_INTERRUPTED
    stored = await events_of(follow(person, run_id))
    assert (kinds_of(stored)[0], stored[0].sequence) == ("run_started", 1)
    request = pb.ListMessagesRequest(conversation_id=place.conversation_id)
    assert (await person.chat.ListMessages(request)).messages[0].contents[0].text == "hello"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_interrupts_runs_and_says_so(server: ServerProcess, number: signal.Signals) -> None:
    person = await Person(server.address).register()
    place = await make_place(person)
    stream = person.chat.SendMessage(
        pb.SendMessageRequest(conversation_id=place.conversation_id, content="hello", model=MODEL)
    )
    seen = await first_deltas(stream, 3)
    begin = time.monotonic()
    ending = asyncio.create_task(server.end(number))
    rest = await events_of(stream)
    assert await ending == 0
    assert time.monotonic() - begin < 25, "the answer alone would take longer"
    failed = rest[-1].run_failed
    assert failed.run.state == pb.RUN_STATE_INTERRUPTED
    assert failed.message.contents[0].text == text_of(seen + rest)
    await server.start()
    person = await _back(person, server)
    stored = await events_of(follow(person, seen[0].run_id))
    assert stored == seen + rest


async def test_a_short_answer_is_finished_before_a_stop(server: ServerProcess) -> None:
    await server.end(signal.SIGTERM)
    await server.start(SHUTDOWN_SECONDS="60")
    person = await Person(server.address).register()
    place = await make_place(person)
    stream = person.chat.SendMessage(
        pb.SendMessageRequest(conversation_id=place.conversation_id, content="word " * 400, model="echo/echo")
    )
    await stream.read()
    ending = asyncio.create_task(server.end(signal.SIGTERM))
    assert kinds_of(await events_of(stream))[-1] == "run_completed"
    assert await ending == 0


async def _back(person: Person, server: ServerProcess) -> Person:
    """The same person at the server's new address."""
    again = Person(server.address)
    again.email = person.email
    return await again.log_in()
