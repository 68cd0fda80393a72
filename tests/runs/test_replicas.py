"""Two servers on one database: a run is reachable from both, and outlives the one that works on it."""

import asyncio
import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import select, update

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import model_pb2, org_pb2
from aiworkspace_server.app import App, running
from aiworkspace_server.kit.embedded import embedded_redis
from aiworkspace_server.runs import claims
from aiworkspace_server.runs.leases import DatabaseInUseError, Lease
from aiworkspace_server.runs.tables import RunClaim
from aiworkspace_server.settings import Settings
from tests.standin import Script, Standin
from tests.support.ledger import usage_entries
from tests.support.outcomes import refusal
from tests.support.people import Person, Place, join, make_conversation, make_place, reconnected
from tests.support.runs import attempts_of, events_of, first_deltas, follow, kinds_of, say, send, send_in, text_of
from tests.support.server_process import ServerProcess
from tests.support.settings import openai_settings, store_settings
from tests.support.stores import Stores, other_databases

MODEL = "openai/gpt-4o-mini"
WORDS = tuple(f"word{n} " for n in range(60))
LONG = tuple(f"word{n} " for n in range(2000))


@dataclass(frozen=True)
class Pair:
    """Two servers, and the settings that both have."""

    one: App
    other: App
    values: dict[str, object]


@pytest.fixture(scope="module")
async def values(stores: Stores, standin: Standin) -> dict[str, object]:
    """Settings of servers that share databases and Redis."""
    shared = await other_databases(stores, "replicas")
    return store_settings(shared) | openai_settings(standin) | {"redis_url": stores.redis}


@pytest.fixture(scope="module")
async def pair(values: dict[str, object]) -> AsyncIterator[Pair]:
    settings = Settings.model_validate(values)
    async with running(settings, migrating=True) as one, running(settings, migrating=False) as other:
        yield Pair(one, other, values)


@pytest.fixture
async def home(pair: Pair) -> Place:
    """An organization whose owner is connected with the first server."""
    return await make_place(await Person(pair.one.address).register())


async def rest_of(stream: Any) -> tuple[list[pb.ChatEvent], str]:
    """What comes of the stream, and the status code that it ends with."""
    heard: list[pb.ChatEvent] = []
    with suppress(grpc.aio.AioRpcError):
        async for response in stream:
            heard.append(response.event)
    return heard, (await stream.code()).name


def is_whole(events: list[pb.ChatEvent], after: int = 0) -> bool:
    """Whether they are dense and end with the only terminal event."""
    told = [event for event in events if not event.HasField("heartbeat")]
    dense = [event.sequence for event in told] == list(range(after + 1, after + 1 + len(told)))
    terminal = [kind in ("run_completed", "run_failed", "run_cancelled") for kind in kinds_of(told)]
    return dense and terminal == [False] * (len(told) - 1) + [True]


# Two servers that live


async def test_a_run_is_followed_from_its_middle_on_another_server(pair: Pair, home: Place, standin: Standin) -> None:
    standin.script("gpt-4o-mini", Script(tokens=WORDS, seconds_per_token=0.03))
    stream = send(home, model=MODEL)
    seen = await first_deltas(stream, 3)
    there = reconnected(home.owner, pair.other.address)
    middle = seen[-1].sequence - 1
    elsewhere = asyncio.create_task(events_of(follow(there, seen[0].run_id, middle)))
    here = seen + await events_of(stream)
    assert is_whole(here)
    assert await elsewhere == here[middle:]
    assert kinds_of(here)[-1] == "run_completed"
    assert await events_of(follow(there, seen[0].run_id)) == here, "the same when it has ended"
    assert await say(there, home.conversation_id, "on", model="echo/echo")


async def test_what_is_said_reaches_the_other_server_before_it_is_stored(
    pair: Pair, home: Place, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for app in (pair.one, pair.other):
        monkeypatch.setattr(app.engine.manager, "deps", replace(app.engine.deps, store_events_seconds=60))
    standin.script("gpt-4o-mini", Script(tokens=LONG, seconds_per_token=0.05))
    stream = send(home, model=MODEL)
    run_id = (await stream.read()).event.run_id
    there = reconnected(home.owner, pair.other.address)
    seen = await asyncio.wait_for(first_deltas(follow(there, run_id), 10), 50)
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    await there.chat.CancelRun(pb.CancelRunRequest(run_id=run_id))


async def test_twenty_readers_of_both_servers_get_the_same(pair: Pair, home: Place, standin: Standin) -> None:
    standin.script("gpt-4o-mini", Script(tokens=WORDS, seconds_per_token=0.02))
    run_id = (await first_deltas(send(home, model=MODEL), 10))[0].run_id
    there = reconnected(home.owner, pair.other.address)
    readers = [events_of(follow(person, run_id, after)) for person in (home.owner, there) for after in range(10)]
    told = await asyncio.gather(*readers)
    assert is_whole(told[0])
    for number, events in enumerate(told):
        assert events == told[0][number % 10 :]
    assert pair.other.engine.manager.remote.idle


async def test_a_run_is_cancelled_from_another_server(pair: Pair, home: Place, standin: Standin) -> None:
    standin.script("gpt-4o-mini", Script(tokens=LONG, seconds_per_token=0.02))
    stream = send(home, model=MODEL)
    seen = await first_deltas(stream, 3)
    there = reconnected(home.owner, pair.other.address)
    run = (await there.chat.CancelRun(pb.CancelRunRequest(run_id=seen[0].run_id))).run
    assert run.state == pb.RUN_STATE_CANCELLED
    events = seen + await events_of(stream)
    assert is_whole(events)
    assert events[-1].run_cancelled.message.contents[0].text == text_of(events)
    assert [entry.run_id for entry in await usage_entries(there, home.org_id)] == [run.run_id]


async def test_a_conversation_is_deleted_from_another_server(pair: Pair, home: Place, standin: Standin) -> None:
    standin.script("gpt-4o-mini", Script(tokens=LONG, seconds_per_token=0.02))
    stream = send(home, model=MODEL)
    run_id = (await first_deltas(stream, 3))[0].run_id
    there = reconnected(home.owner, pair.other.address)
    await there.chat.DeleteConversation(pb.DeleteConversationRequest(conversation_id=home.conversation_id))
    assert pair.one.engine.manager.find(uuid.UUID(run_id)) is None
    for collection, field in (("run_events", "run_id"), ("runs", "_id")):
        assert await pair.one.mongo.database[collection].count_documents({field: uuid.UUID(run_id)}) == 0


async def test_lost_access_ends_runs_of_the_other_server(pair: Pair, home: Place, standin: Standin) -> None:
    member = await Person(pair.one.address).register()
    await join(home.owner, home.org_id, member, org_pb2.ROLE_MEMBER)
    standin.script("gpt-4o-mini", Script(tokens=LONG, seconds_per_token=0.05))
    stream = send_in(member, await make_conversation(member, home.workspace_id), model=MODEL)
    run_id = (await first_deltas(stream, 3))[0].run_id
    own = send(home, model=MODEL)
    own_id = (await first_deltas(own, 3))[0].run_id
    demotion = org_pb2.Member(org_id=home.org_id, user_id=member.user_id, role=org_pb2.ROLE_BILLING)
    there = reconnected(home.owner, pair.other.address)
    await there.orgs.UpdateMember(org_pb2.UpdateMemberRequest(member=demotion))
    await refusal(events_of(stream))
    run = await pair.one.mongo.database["runs"].find_one({"_id": uuid.UUID(run_id)})
    assert run
    assert run["state"] == "cancelled"
    assert pair.one.engine.manager.find(uuid.UUID(own_id)), "the owner's own run goes on"
    await there.chat.CancelRun(pb.CancelRunRequest(run_id=own_id))


async def test_the_same_request_sent_to_both_servers_is_one_run(pair: Pair, home: Place, standin: Standin) -> None:
    standin.script("gpt-4o-mini", Script(tokens=WORDS, seconds_per_token=0.01))
    asked, request_id = len(standin.received), str(uuid.uuid4())
    there = reconnected(home.owner, pair.other.address)
    persons = [home.owner, there] * 5

    async def ask(person: Person) -> list[pb.ChatEvent]:
        """Again when a busy machine has no answer in time, as the SDK does."""
        while True:
            try:
                return await events_of(send_in(person, home.conversation_id, model=MODEL, request_id=request_id))
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise

    told = await asyncio.gather(*map(ask, persons))
    assert is_whole(told[0])
    assert all(events == told[0] for events in told)
    assert len(standin.received) == asked + 1
    assert len(await usage_entries(there, home.org_id)) == 1


async def test_a_sequence_that_was_never_sent_is_out_of_range_on_both(
    pair: Pair, home: Place, standin: Standin
) -> None:
    standin.script("gpt-4o-mini", Script(tokens=LONG, seconds_per_token=0.05))
    run_id = (await first_deltas(send(home, model=MODEL), 3))[0].run_id
    there = reconnected(home.owner, pair.other.address)
    for person in (home.owner, there):
        refused = await refusal(events_of(follow(person, run_id, 100_000)))
        assert refused
        assert (refused.code, refused.reason) == ("OUT_OF_RANGE", "SEQUENCE_AHEAD")
    await there.chat.CancelRun(pb.CancelRunRequest(run_id=run_id))
    assert kinds_of(await events_of(follow(there, run_id, 100_000))) == ["run_cancelled"]


async def test_a_server_without_redis_is_refused_beside_those_with(pair: Pair) -> None:
    lease = Lease(pair.one.db, shared=False, wait_seconds=1)
    with pytest.raises(DatabaseInUseError, match="set REDIS_URL for both"):
        await lease.begin()
    await lease.end()


# A server that dies


@pytest.fixture
async def doomed(pair: Pair, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A third server, in a process of its own."""
    async with ServerProcess(tmp_path / "server", pair.values) as server:
        yield server
        if server.running:
            await server.end(signal.SIGKILL)


@pytest.fixture
async def talking(doomed: ServerProcess, standin: Standin) -> Place:
    """A place whose owner is connected with the server that dies, where answers take long."""
    standin.script("gpt-4o-mini", Script(tokens=LONG, seconds_per_token=0.02))
    return await make_place(await Person(doomed.address).register())


async def test_a_run_whose_server_is_killed_is_ended_by_another(
    pair: Pair, doomed: ServerProcess, talking: Place
) -> None:
    there = reconnected(talking.owner, pair.one.address)
    stream = send(talking, model=MODEL)
    seen = await first_deltas(stream, 5)
    run_id = seen[0].run_id
    reader = asyncio.create_task(events_of(follow(there, run_id)))
    seen += await first_deltas(stream, 40)
    await doomed.end(signal.SIGKILL)
    killed = time.monotonic()
    _, code = await rest_of(stream)
    assert code == "UNAVAILABLE"
    again = asyncio.create_task(events_of(follow(there, run_id, seen[-1].sequence)))
    told = await reader
    assert time.monotonic() - killed < 60, "alone on a machine it is below 10"
    assert is_whole(told)
    assert told[-1].run_failed.run.state == pb.RUN_STATE_INTERRUPTED
    assert told[-1].run_failed.message.contents[0].text == text_of(told)
    assert (await again)[-1] == told[-1]
    assert await events_of(follow(there, run_id)) == told
    entry, *others = await usage_entries(there, talking.org_id)
    assert not others
    assert (entry.run_id, entry.cost) == (run_id, told[-1].run_failed.run.cost)
    assert await say(there, talking.conversation_id, "on", model="echo/echo")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_run_whose_policy_says_so_goes_on_in_another_server(
    pair: Pair, doomed: ServerProcess, talking: Place, standin: Standin, number: signal.Signals
) -> None:
    policy = model_pb2.ModelPolicy(resume_interrupted_runs=True)
    request = model_pb2.SetWorkspaceModelPolicyRequest(workspace_id=talking.workspace_id, policy=policy)
    await talking.owner.models.SetWorkspaceModelPolicy(request)
    readers = [reconnected(talking.owner, app.address) for app in (pair.one, pair.other)]
    stream = send(talking, model=MODEL)
    seen = await first_deltas(stream, 30)
    told = [asyncio.create_task(events_of(follow(reader, seen[0].run_id))) for reader in readers]
    seen += await first_deltas(stream, 30)
    standin.script("gpt-4o-mini", Script(tokens=WORDS, seconds_per_token=0.02))
    await doomed.end(number)
    one, other = await asyncio.gather(*told)
    assert one == other
    assert is_whole(one)
    ended = one[-1].run_completed
    assert ended.run.attempt_count == 2
    assert ended.message.contents[0].text == text_of(one)
    assert text_of(one).endswith("".join(WORDS))
    assert await events_of(follow(readers[0], seen[0].run_id, seen[-1].sequence)) == one[seen[-1].sequence :]
    first, second = await attempts_of(replace(talking, owner=readers[0]), seen[0].run_id)
    assert (first.state, second.state) == (pb.ATTEMPT_STATE_INTERRUPTED, pb.ATTEMPT_STATE_COMPLETED)
    said = sum(event.content_delta.token_count for event in one[: kinds_of(one).index("attempt_failed")])
    assert first.usage.output_tokens == said > 60
    entries = await usage_entries(readers[0], talking.org_id)
    assert sum(entry.cost.nanos for entry in entries) == ended.run.cost.nanos
    assert len(entries) == 2


async def test_an_orphan_is_taken_over_by_one_server_alone(
    pair: Pair, home: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "steady", False)  # the two servers leave it alone
    run_id = uuid.UUID((await say(home.owner, home.conversation_id, "hello", model="echo/echo"))[0].run_id)
    org_id, the_run, db = uuid.UUID(home.org_id), RunClaim.run_id == run_id, pair.one.db
    async with db.write(org_id) as tx:
        await tx.execute(update(RunClaim).where(the_run).values(state="open", server_id=uuid.uuid4()))
        orphan = next(found for found in await claims.list_orphaned(tx) if found.run_id == run_id)

    async def take() -> bool:
        async with db.write(org_id) as tx:
            return await claims.take(tx, orphan, pair.one.engine.deps.lease.id) is not None

    async with db.write(org_id) as tx:
        await tx.execute(select(RunClaim.run_id).where(the_run).with_for_update())
        taking = [asyncio.create_task(take()) for _ in range(8)]
        await asyncio.sleep(0.5)  # until all of them wait for the row
    assert (await asyncio.gather(*taking)).count(True) == 1
    async with db.write(org_id) as tx:
        await tx.execute(update(RunClaim).where(the_run).values(state="closed"))


async def test_a_run_that_was_to_stop_when_its_server_died_is_cancelled(
    pair: Pair, doomed: ServerProcess, talking: Place
) -> None:
    there = reconnected(talking.owner, pair.one.address)
    run_id = (await first_deltas(send(talking, model=MODEL), 3))[0].run_id
    doomed.send(signal.SIGSTOP)
    run = (await there.chat.CancelRun(pb.CancelRunRequest(run_id=run_id))).run
    assert run.state == pb.RUN_STATE_CANCELLED
    assert kinds_of(await events_of(follow(there, run_id)))[-1] == "run_cancelled"
    await doomed.end(signal.SIGKILL)


async def test_a_server_that_wakes_up_too_late_does_no_harm(
    pair: Pair, doomed: ServerProcess, talking: Place, standin: Standin
) -> None:
    there = reconnected(talking.owner, pair.one.address)
    stream = send(talking, model=MODEL)
    seen = await first_deltas(stream, 30)
    run_id = seen[0].run_id
    doomed.send(signal.SIGSTOP)
    told = await events_of(follow(there, run_id))
    assert is_whole(told)
    assert told[-1].run_failed.run.state == pb.RUN_STATE_INTERRUPTED
    doomed.send(signal.SIGCONT)
    heard, code = await rest_of(stream)
    assert code == "UNAVAILABLE"
    assert all(event in told for event in heard), "it says nothing that others did not hear"
    back = reconnected(talking.owner, doomed.address)
    for person in (there, back):
        assert await events_of(follow(person, run_id)) == told
        assert [entry.run_id for entry in await usage_entries(person, talking.org_id)] == [run_id]
    standin.script("gpt-4o-mini", Script(tokens=WORDS))
    assert is_whole(await events_of(send(replace(talking, owner=back), model=MODEL))), "it works on, under a new lease"


# Without Redis


async def test_both_go_on_when_redis_is_gone(stores: Stores, standin: Standin, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack, AsyncExitStack() as redis:
        url = await redis.enter_async_context(embedded_redis(tmp_path))
        values = store_settings(await other_databases(stores, "no_redis")) | openai_settings(standin)
        settings = Settings.model_validate(values | {"redis_url": url})
        one = await stack.enter_async_context(running(settings, migrating=True))
        other = await stack.enter_async_context(running(settings, migrating=False))
        home = await make_place(await Person(one.address).register())
        there = reconnected(home.owner, other.address)
        standin.script("gpt-4o-mini", Script(tokens=LONG, seconds_per_token=0.02))
        stream = send(home, model=MODEL)
        seen = await first_deltas(stream, 3)
        elsewhere = follow(there, seen[0].run_id)
        told = await first_deltas(elsewhere, 10)
        await redis.aclose()
        told += await first_deltas(elsewhere, 100)
        run = (await there.chat.CancelRun(pb.CancelRunRequest(run_id=seen[0].run_id))).run
        assert run.state == pb.RUN_STATE_CANCELLED
        seen += await events_of(stream)
        told += await events_of(elsewhere)
        assert is_whole(seen)
        assert told == seen
