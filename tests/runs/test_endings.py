"""The end of a run: whatever crashes in it, what is left to do is done; and nobody ends what is another's."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from pymongo.errors import PyMongoError

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.conversations.store import ConversationStore
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.runs import start
from aiworkspace_server.runs.models import EventBatch, Run, StopReason
from aiworkspace_server.runs.recovery.takeover import Outcome, Recovered, recover_run
from aiworkspace_server.runs.store import RunStore
from tests.standin import Cut, Script, Standin
from tests.support.ledger import ledger_of
from tests.support.outcomes import refusal
from tests.support.people import Place
from tests.support.postgres import sql
from tests.support.runs import (
    ANTHROPIC,
    OPENAI,
    WORDS,
    attempts_of,
    endings_of,
    events_of,
    first_deltas,
    follow,
    kinds_of,
    messages_of,
    play,
    say,
    send,
    steps_of,
    text_of,
)
from tests.support.stores import Stores

from .conftest import PlanFor

SLOW = Script(tokens=WORDS * 50, seconds_per_token=0.02)


async def recover(app: App, place: Place, run_id: str, stop: StopReason | None = None) -> Recovered:
    ids = UUID(place.org_id), UUID(run_id), UUID(place.conversation_id)
    return await recover_run(app.engine.deps, app.plans, *ids, stop)


async def recovered_state(app: App, place: Place, run_id: str, stop: StopReason | None = None) -> str:
    """Recover a run that is ended by that, and return its state."""
    assert await recover(app, place, run_id, stop) == Recovered(Outcome.ENDED)
    return (await _run(RunStore(app.mongo, UUID(place.org_id)), run_id))["state"]


async def replayed(place: Place, run_id: str) -> list[pb.ChatEvent]:
    return await events_of(follow(place.owner, run_id))


async def is_open(place: Place) -> bool:
    """Whether a run holds the conversation."""
    request = pb.GetConversationRequest(conversation_id=place.conversation_id)
    return bool((await place.owner.chat.GetConversation(request)).conversation.active_run_id)


class Crash(Exception):
    """As if the server was gone at this place."""


STEPS = {"the conversation": "conversations", "the ledger and the claim": "ledger"}  # attributes of GroupCommit


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
async def test_what_a_crash_leaves_of_an_end_is_made_up_for(
    step: str,
    place: Place,
    app: App,
    standin: Standin,
    stores: Stores,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def crash(*_: Any) -> None:
        raise Crash

    model = play(standin, OPENAI, Script(tokens=WORDS))
    with monkeypatch.context() as broken:
        broken.setattr(getattr(app.engine.deps.group_commit, step), "do", crash)
        stream = send(place, model=model)
        run_id = (await stream.read()).event.run_id
        assert await refusal(events_of(stream)) is not None
    assert [kind for _, kind in await endings_of(stores, run_id)] == ["reserve"]
    assert await recovered_state(app, place, run_id) == "completed"
    events = await replayed(place, run_id)
    ended = events[-1].run_completed
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert kinds_of(events).count("run_completed") == 1
    assert ended.message.contents[0].text == text_of(events) == "".join(WORDS)
    assert (await messages_of(place))[1] == ended.message
    assert await endings_of(stores, run_id) == [(1, "reserve"), (1, "settle")]
    assert [(entry.cost, entry.tokens) for entry in await ledger_of(place)] == [(ended.run.cost, ended.run.usage)]
    assert not await is_open(place)
    assert await recovered_state(app, place, run_id) == "completed", "done twice it does no harm"
    assert await replayed(place, run_id) == events
    assert kinds_of(await say(place.owner, place.conversation_id, "on"))[-1] == "run_completed"


@pytest.mark.parametrize(
    ("step", "outcome", "messages", "last"),
    [
        pytest.param((RunStore, "insert"), Outcome.ROLLED_BACK, 0, "release", id="not the run"),
        pytest.param((ConversationStore, "begin_run"), Outcome.ENDED, 1, "settle", id="not the conversation"),
    ],
)
async def test_a_run_that_was_stored_in_part_does_not_hold_its_conversation(
    step: tuple[Any, str],
    outcome: Outcome,
    messages: int,
    last: str,
    place: Place,
    app: App,
    stores: Stores,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def crash(*_: Any) -> None:
        raise Crash

    with monkeypatch.context() as broken:
        broken.setattr(*step, crash)
        broken.setattr(start, "roll_back", crash)
        assert await refusal(events_of(send(place, request_id=str(new_id())))) is not None
    ((run_id,),) = await sql(stores, "SELECT run_id FROM run_claims WHERE conversation_id = %s", place.conversation_id)
    assert await recover(app, place, str(run_id)) == Recovered(outcome)
    assert len(await messages_of(place)) == messages
    assert await endings_of(stores, run_id) == [(1, "reserve"), (1, last)]
    assert not await is_open(place)
    assert kinds_of(await say(place.owner, place.conversation_id, "hello"))[-1] == "run_completed"


async def begun(place: Place, app: App, model: str) -> tuple[Any, list[pb.ChatEvent]]:
    """A stream of a run of which a part is stored, and its events so far."""
    stream = send(place, model=model)
    return stream, await first_deltas(stream, 60)


async def kill(app: App, run_id: str) -> None:
    """Ends the work on the run at once, as the death of a server would."""
    run = app.engine.manager.find(UUID(run_id))
    assert run
    for task in app.tasks.pending:
        task.cancel()
    await run.ended.wait()


async def test_of_two_who_end_a_run_the_first_counts(place: Place, app: App, standin: Standin, stores: Stores) -> None:
    model = play(standin, OPENAI, SLOW)
    stream, events = await begun(place, app, model)
    run_id = events[0].run_id
    live = app.engine.manager.find(UUID(run_id))
    assert live, "it is not dead at all"
    assert await recovered_state(app, place, run_id) == "interrupted"
    assert await refusal(events_of(stream)) is not None
    assert live.stop_reason == StopReason.LOST
    told = await replayed(place, run_id)
    failed = told[-1].run_failed
    assert failed.run.state == pb.RUN_STATE_INTERRUPTED
    assert failed.message.contents[0].text == text_of(told)
    assert [event.sequence for event in told] == list(range(1, len(told) + 1))
    assert await endings_of(stores, run_id) == [(1, "reserve"), (1, "settle")]
    assert [entry.cost for entry in await ledger_of(place)] == [failed.run.cost]
    await asyncio.wait_for(standin.received[-1].done.wait(), 60)
    assert await replayed(place, run_id) == told


async def test_who_finds_the_end_stored_changes_nothing(place: Place, app: App, standin: Standin) -> None:
    model = play(standin, OPENAI, Script(tokens=WORDS, seconds_per_token=0.02))
    stream = send(place, model=model)
    run_id = (await stream.read()).event.run_id
    store = RunStore(app.mongo, UUID(place.org_id))
    run = await store.find(UUID(run_id))
    assert run
    run["state"], run["end_id"], run["last_events"] = "cancelled", new_id(), []
    assert await app.engine.deps.group_commit.ends.do((UUID(place.org_id), run))
    assert await refusal(events_of(stream)) is not None
    assert (await _run(store, run_id))["state"] == "cancelled"
    assert [message.role for message in await messages_of(place)] == [pb.MESSAGE_ROLE_USER]


async def _run(store: RunStore, run_id: str) -> Run:
    run = await store.find(UUID(run_id))
    assert run
    return run


async def test_an_end_that_was_stored_and_not_acknowledged_is_still_ones_own(place: Place, app: App) -> None:
    run_id = (await say(place.owner, place.conversation_id, "hello"))[0].run_id
    finish, org_id = app.engine.deps.group_commit.ends.do, UUID(place.org_id)
    run = await _run(RunStore(app.mongo, org_id), run_id)
    run["last_events"] = []
    assert await finish((org_id, run))
    run["end_id"] = new_id()
    assert not await finish((org_id, run))


async def test_events_have_one_place_each(place: Place, app: App) -> None:
    run_id = UUID((await say(place.owner, place.conversation_id, "hello"))[0].run_id)
    save, org_id = app.engine.deps.group_commit.events.do, UUID(place.org_id)

    def batch(first: int) -> EventBatch:
        return EventBatch(_id=new_id(), run_id=run_id, first=first, events=[b""])

    once = batch(1000)
    assert await save((org_id, once))
    assert await save((org_id, once)), "the same ones again"
    for first in range(2000, 2050):
        again = batch(first)
        assert all(await asyncio.gather(*(save((org_id, again)) for _ in range(3)))), "at once"
    assert not await save((org_id, batch(1000)))


async def test_events_that_cannot_be_stored_keep_no_others_from_it(place: Place, app: App) -> None:
    run_id = UUID((await say(place.owner, place.conversation_id, "hello"))[0].run_id)
    save, org_id = app.engine.deps.group_commit.events.do, UUID(place.org_id)
    sizes = (1, 17 * 2**20, 2)  # MongoDB takes documents of up to 16 MiB
    batches = [EventBatch(_id=new_id(), run_id=run_id, first=1000 + size, events=[bytes(size)]) for size in sizes]
    outcomes = await asyncio.gather(*(save((org_id, batch)) for batch in batches), return_exceptions=True)
    assert outcomes[0::2] == [True, True]
    assert isinstance(outcomes[1], PyMongoError)
    stored = await RunStore(app.mongo, org_id).list_batches(run_id)
    assert [len(batch["events"][0]) for batch in stored if batch["first"] > 1000] == [1, 2], "besides the run's own"


async def test_a_server_that_lost_a_run_makes_no_more_attempts(
    place: Place, app: App, standin: Standin, stores: Stores, plan_for: PlanFor
) -> None:
    plan_for(ANTHROPIC, continue_broken_answers=True)
    model = play(standin, OPENAI, Script(tokens=WORDS * 50, fault=Cut(100), seconds_per_token=0.02))
    stream, events = await begun(place, app, model)
    run_id, asked = events[0].run_id, len(standin.received)
    other, columns = new_id(), "id, name, start_time, lease_end_time"
    await sql(stores, f"INSERT INTO servers ({columns}) VALUES (%s, 'other', now(), now() + interval '1 hour')", other)
    renewing = asyncio.create_task(_renew(stores, other))
    await sql(stores, "UPDATE run_claims SET server_id = %s WHERE run_id = %s", other, run_id)
    assert await refusal(events_of(stream)) is not None
    assert len(standin.received) == asked
    assert await endings_of(stores, run_id) == [(1, "reserve")]
    renewing.cancel()
    await sql(stores, "DELETE FROM servers WHERE id = %s", other)  # which makes the run an orphan
    assert await recovered_state(app, place, run_id) == "interrupted"
    assert await endings_of(stores, run_id) == [(1, "reserve"), (1, "settle")]


async def _renew(stores: Stores, server_id: UUID) -> None:
    while True:
        await sql(
            stores, "UPDATE servers SET lease_end_time = lease_end_time + interval '1 s' WHERE id = %s", server_id
        )
        await asyncio.sleep(0.5)


async def test_a_killed_run_is_ended_with_what_was_stored(
    place: Place, app: App, standin: Standin, stores: Stores
) -> None:
    model = play(standin, OPENAI, SLOW)
    _, events = await begun(place, app, model)
    run_id = events[0].run_id
    await kill(app, run_id)
    assert await recovered_state(app, place, run_id) == "interrupted"
    told = await replayed(place, run_id)
    assert steps_of(told)[-3:] == ["attempt_failed", "content_stopped", "run_failed"]
    assert told[-1].run_failed.message.contents[0].text == text_of(told)
    (attempt,) = await attempts_of(place, run_id)
    assert (attempt.state, attempt.usage_estimated) == (pb.ATTEMPT_STATE_INTERRUPTED, True)
    (entry,) = await ledger_of(place)
    assert (entry.cost, entry.estimated) == (told[-1].run_failed.run.cost, True)
    assert await endings_of(stores, run_id) == [(1, "reserve"), (1, "settle")]


async def test_a_killed_run_is_charged_for_the_pieces_that_were_stored(
    place: Place, app: App, standin: Standin, stores: Stores
) -> None:
    """However short they are, and gathered in however few events."""
    model = play(standin, OPENAI, replace(SLOW, tokens=("7",) * 1000))
    _, events = await begun(place, app, model)
    run_id = events[0].run_id
    await kill(app, run_id)
    assert await recovered_state(app, place, run_id) == "interrupted"
    told = await replayed(place, run_id)
    deltas = [event.content_delta for event in told if event.HasField("content_delta")]
    pieces = sum(delta.token_count for delta in deltas)
    assert pieces == len(text_of(told)) >= 1
    (entry,) = await ledger_of(place)
    assert (entry.tokens.output_tokens, entry.estimated) == (pieces, True)


async def test_a_killed_run_that_was_to_be_cancelled_is(place: Place, app: App, standin: Standin) -> None:
    model = play(standin, OPENAI, SLOW)
    _, events = await begun(place, app, model)
    await kill(app, events[0].run_id)
    assert await recovered_state(app, place, events[0].run_id, StopReason.CANCELLED) == "cancelled"
    assert (await replayed(place, events[0].run_id))[-1].HasField("run_cancelled")


async def test_a_killed_run_goes_on_if_its_policy_says_so(
    place: Place, app: App, standin: Standin, stores: Stores, plan_for: PlanFor
) -> None:
    plan_for(ANTHROPIC, resume_interrupted_runs=True)
    model = play(standin, OPENAI, SLOW)
    _, events = await begun(place, app, model)
    run_id = events[0].run_id
    await kill(app, run_id)
    play(standin, OPENAI, Script(tokens=("and ", "so ", "on.")))
    recovered = await recover(app, place, run_id)
    assert recovered.executor
    app.engine.manager.resume(recovered.executor)
    told = await replayed(place, run_id)
    assert [event.sequence for event in told] == list(range(1, len(told) + 1))
    ended = told[-1].run_completed
    assert (ended.run.attempt_count, ended.message.state) == (2, pb.MESSAGE_STATE_COMPLETE)
    assert ended.message.contents[0].text == text_of(told)
    assert text_of(told).endswith("and so on.")
    asked = standin.received[-1].body["messages"]
    assert asked[-2] == {"role": "assistant", "content": text_of(told).removesuffix("and so on.")}
    assert await endings_of(stores, run_id) == [(1, "reserve"), (1, "settle"), (2, "reserve"), (2, "settle")]
    assert ended.run.cost.nanos == sum(entry.cost.nanos for entry in await ledger_of(place))


async def test_a_run_that_goes_on_has_an_account_of_all_attempts(
    place: Place, app: App, standin: Standin, plan_for: PlanFor
) -> None:
    plan_for(resume_interrupted_runs=True)
    model = play(standin, OPENAI, SLOW)
    _, events = await begun(place, app, model)
    run_id = events[0].run_id
    for number in (2, 3):
        await kill(app, run_id)
        recovered = await recover(app, place, run_id)
        assert recovered.executor
        app.engine.manager.resume(recovered.executor)
        await asyncio.wait_for(_until_attempt(place, run_id, number), 60)
    run = (await place.owner.chat.CancelRun(pb.CancelRunRequest(run_id=run_id))).run
    entries = await ledger_of(place)
    assert len(entries) == run.attempt_count == 3
    assert run.cost.nanos == sum(entry.cost.nanos for entry in entries)
    assert run.usage.input_tokens == sum(entry.tokens.input_tokens for entry in entries)


async def _until_attempt(place: Place, run_id: str, number: int) -> None:
    """Until the attempt has said something."""
    stream = follow(place.owner, run_id)
    started = 0
    async for response in stream:
        started = response.event.attempt_started.attempt or started
        if started == number and response.event.HasField("content_delta"):
            stream.cancel()
            return
