"""What comes between two steps of a run: a stop of the server, its freezing, a slow write, a reply that is lost."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import fields, replace
from typing import Any, cast
from uuid import UUID

import psycopg
import pytest
import sqlalchemy.exc

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import model_pb2
from aiworkspace_server.app import App, running
from aiworkspace_server.conversations.models import Conversation
from aiworkspace_server.conversations.store import ConversationStore
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.kit.postgres import Database, WriteSession
from aiworkspace_server.runs import claims, events
from aiworkspace_server.runs.leases import Lease
from aiworkspace_server.runs.models import EventBatch, Run
from aiworkspace_server.runs.recovery.takeover import Outcome, Recovered, recover_run, save_relayed
from aiworkspace_server.runs.start import roll_back
from aiworkspace_server.runs.store import RunStore
from aiworkspace_server.runs.transactions import OpenReservation, UnsettledRun
from aiworkspace_server.settings import Settings
from aiworkspace_server.usage import ledger
from aiworkspace_server.usage.ledger import Spender
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
    insert, inserting = RunStore.insert, asyncio.Event()

    async def slow(store: RunStore, run: Run) -> None:
        inserting.set()
        await asyncio.sleep(0.3)
        await insert(store, run)

    monkeypatch.setattr(RunStore, "insert", slow)
    place = await make_place(await Person(own_app.address).register())
    reading = asyncio.create_task(
        events_of(send(place, model=play(standin, OPENAI, Script(tokens=WORDS, seconds_per_token=0.02))))
    )
    await inserting.wait()
    await own_app.engine.manager.close(30)
    told = await reading
    assert (kinds_of(told)[-1], text_of(told)) == ("run_completed", "".join(WORDS))


async def test_a_server_that_froze_before_the_run_was_stored_asks_nobody(
    place: Place, app: App, standin: Standin, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one found the claim and no run, and has withdrawn it; this one did not get to renew its lease."""
    insert = RunStore.insert

    async def frozen(store: RunStore, run: Run) -> None:
        await roll_back(app.engine.deps, UUID(place.org_id), run["_id"], run["conversation_id"])
        freezing.setattr(Lease, "holds", lambda lease: False)
        await insert(store, run)

    asked = len(standin.received)
    with monkeypatch.context() as freezing:
        freezing.setattr(RunStore, "insert", frozen)
        refused = await refusal(events_of(send(place, model=play(standin, OPENAI, Script(tokens=WORDS)))))
    assert refused is not None
    assert refused.code == "UNAVAILABLE"
    ((run_id, state),) = await sql(stores, _CLAIMS, place.conversation_id)
    store = RunStore(app.mongo, UUID(place.org_id))

    async def gone() -> bool:
        return await store.find(run_id) is None

    await until(gone)
    assert (state, len(standin.received)) == ("closed", asked)
    assert await endings_of(stores, run_id) == [(1, "reserve"), (1, "release")]
    await until_true(app.engine.deps.lease.holds)
    assert kinds_of(await say(place.owner, place.conversation_id, "on"))[-1] == "run_completed"
    assert len(await messages_of(place)) == 2


async def test_a_server_that_froze_before_the_conversation_had_the_run_leaves_the_conversation_free(
    place: Place, app: App, standin: Standin, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one found the run, and has ended it before the conversation got it."""
    begin, asked, org_id = ConversationStore.begin_run, len(standin.received), UUID(place.org_id)
    ended = list[tuple[UUID, Recovered]]()

    async def frozen(conversations: ConversationStore, conversation: Conversation, run_id: UUID, *which: Any) -> bool:
        await until(lambda: RunStore(app.mongo, org_id).exists(run_id))
        freezing.setattr(Lease, "holds", lambda lease: False)
        ids = org_id, run_id, conversation["_id"]
        ended.append((run_id, await recover_run(app.engine.deps, app.plans, *ids, None)))
        return await begin(conversations, conversation, run_id, *which)

    with monkeypatch.context() as freezing:
        freezing.setattr(ConversationStore, "begin_run", frozen)
        refused = await refusal(events_of(send(place, model=play(standin, OPENAI, Script(tokens=WORDS)))))
    assert refused is not None
    assert (refused.code, len(standin.received)) == ("UNAVAILABLE", asked)
    assert [outcome for _, outcome in ended] == [Recovered(Outcome.ENDED)]
    conversations = ConversationStore(app.mongo, org_id)

    async def free() -> bool:
        conversation = await conversations.find(UUID(place.conversation_id))
        return conversation is not None and conversation["active_run_id"] is None and conversation["size_bytes"] > 0

    await until(free)
    assert await endings_of(stores, str(ended[0][0])) == [(1, "reserve"), (1, "settle")]
    await until_true(app.engine.deps.lease.holds)
    assert kinds_of(await say(place.owner, place.conversation_id, "on"))[-1] == "run_completed"


async def test_the_answer_is_stored_before_the_conversation_says_so(
    place: Place, app: App, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise somebody could ask on who has not read it."""
    ends, seen = app.engine.deps.group_commit.ends, []
    finish = ends.do

    async def slow(item: tuple[UUID, Run]) -> bool:
        _, run = item
        await asyncio.sleep(0.5)
        conversation = await ConversationStore(app.mongo, UUID(place.org_id)).find(run["conversation_id"])
        assert conversation
        seen.append((conversation["size_bytes"], conversation["active_run_id"]))
        return await finish(item)

    monkeypatch.setattr(ends, "do", slow)
    run_id = (await say(place.owner, place.conversation_id, "hello"))[0].run_id
    assert seen == [(len("hello"), UUID(run_id))]


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
    """The connection breaks during COMMIT: this process sees an error, and the database commits."""
    slow = _SlowToCommit(app.db)
    with monkeypatch.context() as cutting:
        cutting.setattr(app.engine.manager, "deps", replace(app.engine.deps, db=cast(Database, slow)))
        assert await refusal(events_of(send(place, request_id=str(new_id())))) is not None
        await asyncio.gather(*slow.late)

    async def closed() -> bool:
        return [state for _, state in await sql(stores, _CLAIMS, place.conversation_id)] == ["closed"]

    await until(closed)
    ((run_id, _),) = await sql(stores, _CLAIMS, place.conversation_id)
    assert await endings_of(stores, run_id) == [(1, "reserve"), (1, "release")]
    assert kinds_of(await say(place.owner, place.conversation_id, "again"))[-1] == "run_completed"


class _SlowToCommit:
    """The database, over a connection whose first COMMIT takes its time and gets no answer."""

    def __init__(self, db: Database) -> None:
        self.late: list[asyncio.Task[None]] = []
        self.read, self.write = db.read, db.write
        self._db = db

    async def fetch(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        if self.late:
            return await self._db.fetch(statement, values)
        executed = asyncio.Event()
        self.late.append(asyncio.create_task(self._commit_late(statement, values, executed)))
        await executed.wait()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    async def _commit_late(self, statement: str, values: Sequence[Any], executed: asyncio.Event) -> None:
        async with self._db.engine.connect() as connection:
            await connection.exec_driver_sql("BEGIN")
            await connection.exec_driver_sql(statement, tuple(values))
            executed.set()
            await asyncio.sleep(0.5)
            await connection.exec_driver_sql("COMMIT")


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
    assert await RunStore(app.mongo, UUID(place.org_id)).find(run_id) is None
    assert await app.mongo.database["run_events"].count_documents({"run_id": run_id}) == 0
    assert await endings_of(stores, str(run_id)) == [(1, "reserve"), (1, "settle")]


async def test_a_take_over_whose_commit_got_no_answer_is_given_up(
    place: Place, app: App, standin: Standin, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = play(standin, OPENAI, Script(tokens=WORDS * 50, seconds_per_token=0.05))
    run_id = UUID((await send(place, model=model).read()).event.run_id)
    take, attempts = claims.take, list[bool]()

    async def cut(tx: WriteSession, orphan: claims.Found, server_id: UUID) -> claims.Found | None:
        found = await take(tx, orphan, server_id)
        if orphan.run_id == run_id and len(attempts) < 2:
            attempts.append(found is not None)
            await tx.commit()
            raise sqlalchemy.exc.OperationalError("COMMIT", {}, Exception("server closed the connection unexpectedly"))
        return found

    monkeypatch.setattr(claims, "take", cut)
    await sql(stores, "UPDATE run_claims SET server_id = %s WHERE run_id = %s", new_id(), run_id)

    async def closed() -> bool:
        return (run_id, "closed") in await sql(stores, _CLAIMS, place.conversation_id)

    await until(closed)
    assert attempts == [True, True], "it was an orphan again after each"


async def test_what_another_server_reserved_ends_with_the_run(
    place: Place, app: App, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had resumed the run when this one, which was only slow, came to the end."""

    settle = app.engine.deps.group_commit.ledger

    async def late(ended: UnsettledRun) -> Sequence[OpenReservation]:
        async with app.db.write(ended.org_id) as tx:
            if first := await ledger.list_reserved(tx, ended.run_id):
                who = {field.name: getattr(first[0], field.name) for field in fields(Spender)}
                price = ledger.reservation("echo/echo", 10, 10, first[0].create_time)
                await app.ledger.reserve(tx, Spender(**who), 2, "echo/echo", price, own_key=False)
        monkeypatch.undo()
        return await settle.do(ended)

    monkeypatch.setattr(settle, "do", late)
    run_id = (await say(place.owner, place.conversation_id, "hello"))[0].run_id
    assert await endings_of(stores, run_id) == [(1, "reserve"), (1, "settle"), (2, "reserve"), (2, "settle")]
    estimated = "SELECT attempt FROM ledger_entries WHERE run_id = %s AND estimated"
    assert await sql(stores, estimated, run_id) == [(2,)]


async def test_only_what_follows_the_last_stored_event_is_taken_from_redis(
    place: Place, app: App, standin: Standin
) -> None:
    run_id, store = new_id(), RunStore(app.mongo, UUID(place.org_id))
    one, two, other, three = (events.encode(run_id, n, heartbeat={}) for n in (1, 2, 20, 3))
    run = {"_id": run_id, "state": "running", "takeovers": 0, "last_events": [], "event_count": 0}
    await store.insert(cast(Run, run | {"first_events": [one]}))
    deps, org_id = app.engine.deps, UUID(place.org_id)
    assert await deps.group_commit.events.do((org_id, EventBatch(_id=new_id(), run_id=run_id, first=2, events=[two])))
    await save_relayed(deps, org_id, run_id, {1: one, 2: other, 3: three})
    assert await _stored(store, run_id) == [one, two], "sent by a server before the last"
    await save_relayed(deps, org_id, run_id, {1: one, 2: two, 3: three})
    assert await _stored(store, run_id) == [one, two, three]
    await store.delete([run_id])


async def _stored(store: RunStore, run_id: UUID, after: int = 0) -> list[bytes]:
    stored = await store.find_events(run_id, after)
    assert stored
    return stored.after(after)


async def test_many_and_large_events_are_stored_in_several_documents(place: Place, app: App, standin: Standin) -> None:
    model = play(standin, OPENAI, Script(tokens=WORDS, until=(going := asyncio.Event())))
    run_id = UUID((await send(place, model=model).read()).event.run_id)
    run, store = app.engine.manager.find(run_id), RunStore(app.mongo, UUID(place.org_id))
    assert run
    await until_true(lambda: run.stored_count == len(run.events))
    before = len(run.events)
    for size in (3, 3, 5, 1):
        run.emit(content_delta={"text": "x" * (size << 20)})
    await until_true(lambda: run.stored_count == len(run.events))
    assert await _stored(store, run_id, before) == run.events[before:]
    batches = await app.mongo.database["run_events"].find({"run_id": run_id, "first": {"$gt": before}}).to_list()
    assert [len(batch["events"]) for batch in batches] == [1, 1, 1, 1]
    going.set()


def test_the_model_that_speaks_is_the_one_that_has_not_failed(app: App) -> None:
    def told(*steps: dict[str, Any]) -> str:
        run_id = new_id()
        stored = [events.encode(run_id, number, **step) for number, step in enumerate(steps, 1)]
        number, models = 1, {}
        for event in map(events.decode, stored):
            number = events.speaking_attempt(event, number)
            if event.HasField("attempt_started"):
                models[number] = event.attempt_started.model
        return models[number]

    one, two = ({"attempt_started": {"attempt": n, "model": model}} for n, model in ((1, "a/one"), (2, "b/two")))
    lost, failed = ({"attempt_failed": {"attempt": n}} for n in (2, 1))
    assert told(one) == "a/one"
    assert told(one, two, lost) == "a/one", "asked beside, and stopped"
    assert told(one, two, failed) == "b/two"
    assert told(one, failed, two) == "b/two"
