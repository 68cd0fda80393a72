"""What comes between two steps of a run: a stop of the server, its freezing, a slow write, a reply that is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy.exc

from aiworkspace.v1 import model_pb2
from aiworkspace_server.app import App, running
from aiworkspace_server.chat.models import Message, Run
from aiworkspace_server.chat.opening import Opening, withdraw
from aiworkspace_server.chat.store import ChatStore
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.kit.postgres import Database, WriteSession
from aiworkspace_server.llm.base import ModelRequest
from aiworkspace_server.settings import Settings
from tests.backdoor import sql
from tests.conftest import Stores, other_databases, provider_settings, store_settings
from tests.people import Person, Place, events_of, kinds_of, make_place, say, text_of
from tests.refusals import refusal
from tests.standin import HttpError, Script, Standin
from tests.waiting import until, until_true

from .telling import ANTHROPIC, OPENAI, WORDS, endings_of, messages_of, play, send

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
    events = await reading
    assert (kinds_of(events)[-1], text_of(events)) == ("run_completed", "".join(WORDS))


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
    events = await events_of(send(place, model=play(standin, OPENAI, fails, Script(tokens=WORDS))))
    assert (kinds_of(events)[-1], text_of(events)) == ("run_completed", "".join(WORDS))


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
