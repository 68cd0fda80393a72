"""What comes between two steps of a run: a stop of the server, its freezing, a slow write, a reply that is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy.exc

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import model_pb2
from aiworkspace_server.app import App, running
from aiworkspace_server.chat import claims, ending, events
from aiworkspace_server.chat.engine import Engine
from aiworkspace_server.chat.left import _spender
from aiworkspace_server.chat.live import LiveRun
from aiworkspace_server.chat.models import EventBatch, Message, Run
from aiworkspace_server.chat.opening import Opening, withdraw
from aiworkspace_server.chat.recovery import Recovery, _save_relayed
from aiworkspace_server.chat.store import ChatStore
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.kit.postgres import Database, WriteSession
from aiworkspace_server.llm.base import ModelRequest
from aiworkspace_server.settings import Settings
from aiworkspace_server.usage import ledger
from tests.standin import HttpError, Script, Standin
from tests.support.outcomes import OK, outcome, refusal
from tests.support.people import Person, Place, make_place
from tests.support.postgres import as_owner, sql, until_blocked
from tests.support.runs import (
    ANTHROPIC,
    OPENAI,
    WORDS,
    endings_of,
    events_of,
    kinds_of,
    messages_of,
    play,
    say,
    send,
    text_of,
)
from tests.support.settings import provider_settings, store_settings
from tests.support.stores import Stores, other_databases
from tests.support.waiting import until, until_true

_CLAIMS = "SELECT run_id, state FROM run_claims WHERE conversation_id = %s"


@pytest.fixture
async def own_app(stores: Stores, standin: Standin) -> AsyncIterator[App]:
    """A server that a test may stop."""
    where = await other_databases(stores, "interleavings")
    settings = Settings.model_validate(store_settings(where) | provider_settings(standin))
    async with running(settings, migrating=True) as app:
        yield app


async def test_a_stop_lets_a_run_finish_that_was_just_starting(
    own_app: App, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_run = ChatStore.save_run

    async def slow(store: ChatStore, run: Run) -> None:
        await asyncio.sleep(0.3)
        await save_run(store, run)

    monkeypatch.setattr(ChatStore, "save_run", slow)
    place = await make_place(await Person(own_app.address).register())
    reading = asyncio.create_task(
        events_of(send(place, model=play(standin, OPENAI, Script(tokens=WORDS, seconds_per_token=0.02))))
    )
    await until_true(lambda: own_app.runs._starting)
    await own_app.runs.close(30)
    told = await reading
    assert (kinds_of(told)[-1], text_of(told)) == ("run_completed", "".join(WORDS))


async def test_a_server_that_froze_before_the_run_was_stored_asks_nobody(
    place: Place, app: App, standin: Standin, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one found the claim and no run, and has withdrawn it; this one did not get to renew its lease."""
    save_run = ChatStore.save_run

    async def frozen(store: ChatStore, run: Run) -> None:
        await withdraw(app.engine, UUID(place.org_id), run["_id"], run["conversation_id"])
        app.engine.lease._until = 0.0
        await save_run(store, run)

    asked = len(standin.received)
    with monkeypatch.context() as freezing:
        freezing.setattr(ChatStore, "save_run", frozen)
        refused = await refusal(events_of(send(place, model=play(standin, OPENAI, Script(tokens=WORDS)))))
    assert refused is not None
    assert refused.code == "UNAVAILABLE"
    ((run_id, state),) = await sql(stores, _CLAIMS, place.conversation_id)
    store = ChatStore(app.mongo, UUID(place.org_id))

    async def gone() -> bool:
        return await store.find_run(run_id) is None

    await until(gone)
    assert (state, len(standin.received)) == ("closed", asked)
    assert await endings_of(stores, run_id) == [(1, "reserve"), (1, "release")]
    await until_true(app.engine.lease.holds)
    assert kinds_of(await say(place.owner, place.conversation_id, "on"))[-1] == "run_completed"
    assert len(await messages_of(place)) == 2


async def test_the_answer_is_stored_before_the_conversation_says_so(
    place: Place, app: App, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise somebody could ask on who has not read it."""
    save_message, seen = ChatStore.save_message, []

    async def slow(store: ChatStore, message: Message) -> None:
        if message["role"] == "assistant":
            await asyncio.sleep(0.5)
            conversation = await store.find_conversation(message["conversation_id"])
            assert conversation
            seen.append(conversation["size_bytes"])
        await save_message(store, message)

    monkeypatch.setattr(ChatStore, "save_message", slow)
    await say(place.owner, place.conversation_id, "hello")
    assert seen == [len("hello")]


async def test_a_hedge_that_is_refused_takes_no_retry_away(place: Place, standin: Standin) -> None:
    limit = model_pb2.ModelLimit(model=ANTHROPIC, tokens_per_minute=1)
    policy = model_pb2.ModelPolicy(fallback_models=[ANTHROPIC], hedge_after_seconds=0.1, limits=[limit])
    request = model_pb2.SetOrgModelPolicyRequest(org_id=place.org_id, policy=policy)
    await place.owner.models.SetOrgModelPolicy(request)
    fails = Script(seconds_before=0.5, fault=HttpError(503))
    told = await events_of(send(place, model=play(standin, OPENAI, fails, Script(tokens=WORDS))))
    assert (kinds_of(told)[-1], text_of(told)) == ("run_completed", "".join(WORDS))


async def test_a_reservation_whose_commit_got_no_answer_is_taken_back(
    place: Place, app: App, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve, late = Opening.reserve, []

    async def cut(opening: Opening, request: ModelRequest) -> UUID | None:
        """The connection breaks during COMMIT: this process sees an error, and the database commits."""
        reserved = asyncio.Event()
        opening._engine = replace(app.engine, db=_SlowToCommit(app.db, reserved))  # type: ignore[arg-type]
        late.append(asyncio.create_task(reserve(opening, request)))
        await reserved.wait()
        raise sqlalchemy.exc.OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))

    with monkeypatch.context() as cutting:
        cutting.setattr(Opening, "reserve", cut)
        assert await refusal(events_of(send(place, request_id=str(new_id())))) is not None
        await asyncio.gather(*late)

    async def closed() -> bool:
        return [state for _, state in await sql(stores, _CLAIMS, place.conversation_id)] == ["closed"]

    await until(closed)
    ((run_id, _),) = await sql(stores, _CLAIMS, place.conversation_id)
    assert await endings_of(stores, run_id) == [(1, "reserve"), (1, "release")]
    assert kinds_of(await say(place.owner, place.conversation_id, "again"))[-1] == "run_completed"


class _SlowToCommit:
    """The database, over a connection on which COMMIT takes its time."""

    def __init__(self, db: Database, reserved: asyncio.Event) -> None:
        self._db = db
        self._reserved = reserved

    @asynccontextmanager
    async def write(self, *scope: Any) -> AsyncIterator[WriteSession]:
        async with self._db.write(*scope) as tx:
            yield tx
            self._reserved.set()
            await asyncio.sleep(0.5)


async def test_a_deletion_stops_the_run_though_the_database_breaks_off(
    place: Place, app: App, standin: Standin, stores: Stores
) -> None:
    model = play(standin, OPENAI, Script(tokens=WORDS * 50, seconds_per_token=0.05))
    stream = send(place, model=model)
    run_id = UUID((await stream.read()).event.run_id)
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%UPDATE run_claims%%'"
    async with as_owner(stores) as owner, owner.transaction():
        await owner.execute("LOCK TABLE run_claims IN EXCLUSIVE MODE")
        request = pb.DeleteConversationRequest(conversation_id=place.conversation_id)
        deleting = asyncio.create_task(outcome(place.owner.chat.DeleteConversation(request)))
        await until_blocked(stores, deleting)
        await sql(stores, f"SELECT pg_terminate_backend(pid) FROM ({waiting}) AS blocked")
    assert await deleting == OK
    store = ChatStore(app.mongo, UUID(place.org_id))
    assert (await store.find_run(run_id), await store.last_event(run_id)) == (None, None)
    assert await endings_of(stores, str(run_id)) == [(1, "reserve"), (1, "settle")]


async def test_a_take_over_whose_commit_got_no_answer_is_given_up(
    place: Place, app: App, standin: Standin, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = play(standin, OPENAI, Script(tokens=WORDS * 50, seconds_per_token=0.05))
    run_id = UUID((await send(place, model=model).read()).event.run_id)
    recovery = Recovery(app.engine, app.plans, app.runs, app.runs._relay)
    monkeypatch.setattr(Recovery, "take_over", _nothing)  # nobody else may help
    await sql(stores, "UPDATE run_claims SET server_id = %s WHERE run_id = %s", new_id(), run_id)
    async with app.db.write() as tx:
        orphan = next(found for found in await claims.list_orphaned(tx) if found.run_id == run_id)
    take = claims.take

    async def cut(tx: WriteSession, found: claims.Found, server_id: UUID) -> None:
        assert await take(tx, found, server_id)
        await tx.commit()
        raise sqlalchemy.exc.OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))

    with monkeypatch.context() as cutting:
        cutting.setattr(claims, "take", cut)
        await recovery._take(orphan)
    assert await sql(stores, "SELECT server_id FROM run_claims WHERE run_id = %s", run_id) == [(None,)]
    monkeypatch.undo()

    async def closed() -> bool:
        return (run_id, "closed") in await sql(stores, _CLAIMS, place.conversation_id)

    await until(closed)


async def _nothing(*_: object) -> None: ...


async def test_what_another_server_reserved_ends_with_the_run(
    place: Place, app: App, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had gone on with the run when this one, which was only slow, came to the end."""
    settle = ending._settle

    async def late(engine: Engine, org_id: UUID, run: Run) -> None:
        async with app.db.read(org_id) as tx:
            (entry,) = await ledger.list_reserved(tx, run["_id"])
        price = ledger.reservation("echo/echo", 10, 10, entry.create_time)
        async with app.db.write(org_id) as tx:
            await app.ledger.reserve(tx, _spender(entry), 2, "echo/echo", price, own_key=False)
        await settle(engine, org_id, run)

    monkeypatch.setattr(ending, "_settle", late)
    run_id = (await say(place.owner, place.conversation_id, "hello"))[0].run_id
    assert await endings_of(stores, run_id) == [(1, "reserve"), (1, "settle"), (2, "reserve"), (2, "settle")]
    estimated = "SELECT attempt FROM ledger_entries WHERE run_id = %s AND estimated"
    assert await sql(stores, estimated, run_id) == [(2,)]


async def test_only_what_follows_the_last_stored_event_is_taken_from_the_relay(place: Place, app: App) -> None:
    run_id, store = new_id(), ChatStore(app.mongo, UUID(place.org_id))
    one, two, other, three = (events.encode(run_id, n, heartbeat={}) for n in (1, 2, 20, 3))
    await store.save_events(EventBatch(_id=new_id(), run_id=run_id, first=1, events=[one, two]))
    await _save_relayed(store, run_id, {1: one, 2: other, 3: three})
    assert await store.events_after(run_id, 0) == [one, two], "said by a server before the last"
    await _save_relayed(store, run_id, {1: one, 2: two, 3: three})
    assert await store.events_after(run_id, 0) == [one, two, three]


async def test_many_and_large_events_are_stored_in_several_documents(place: Place, app: App) -> None:
    run_id = (await say(place.owner, place.conversation_id, "hello"))[0].run_id
    store = ChatStore(app.mongo, UUID(place.org_id))
    run = await store.find_run(UUID(run_id))
    assert run
    live = LiveRun.restore(UUID(place.org_id), run, app.runs.pace, await store.events_after(run["_id"], 0))
    before = len(live.events)
    for size in (3, 3, 5, 1):
        live.emit(content_delta={"text": "x" * (size << 20)})
    await ending.store_events(store, live)
    assert await store.events_after(run["_id"], before) == live.events[before:]
    batches = await app.mongo.database["run_events"].find({"run_id": run["_id"], "first": {"$gt": before}}).to_list()
    assert [len(batch["events"]) for batch in batches] == [1, 1, 1, 1]


def test_the_model_that_speaks_is_the_one_that_has_not_failed(app: App) -> None:
    def told(*steps: dict[str, Any]) -> str:
        run_id = new_id()
        stored = [events.encode(run_id, number, **step) for number, step in enumerate(steps, 1)]
        number, models = 1, {}
        for event in map(events.decode, stored):
            number = events.speaker(event, number)
            if event.HasField("attempt_started"):
                models[number] = event.attempt_started.model
        return models[number]

    one, two = ({"attempt_started": {"attempt": n, "model": model}} for n, model in ((1, "a/one"), (2, "b/two")))
    lost, failed = ({"attempt_failed": {"attempt": n}} for n in (2, 1))
    assert told(one) == "a/one"
    assert told(one, two, lost) == "a/one", "asked beside, and stopped"
    assert told(one, two, failed) == "b/two"
    assert told(one, failed, two) == "b/two"
