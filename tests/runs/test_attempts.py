"""Attempts: what is tried again, what each of them costs, and what the AI log says of them."""

import asyncio
import uuid
from dataclasses import replace

import pytest

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.kit.concurrency import ConcurrencyLimiter
from aiworkspace_server.llm.base import TokenUsage
from aiworkspace_server.llm.breaker import FAILURES_IN_A_ROW
from aiworkspace_server.llm.prices import price
from tests.standin import Cut, ErrorEvent, HttpError, Script, Stall, Standin
from tests.support.ledger import ledger_of
from tests.support.outcomes import refusal
from tests.support.people import NewPerson, Place, make_conversation, make_place
from tests.support.providers import full_queue, openai_at
from tests.support.runs import (
    ANTHROPIC,
    OPENAI,
    WORDS,
    attempts_of,
    endings_of,
    events_of,
    kinds_of,
    messages_of,
    play,
    reason_of,
    say,
    send,
    steps_of,
    text_of,
)
from tests.support.stores import Stores
from tests.support.waiting import until_true

pytestmark = pytest.mark.usefixtures("short_clocks")

AWAY = Script(fault=HttpError(503))


async def test_a_provider_that_fails_before_it_speaks_is_tried_again(
    place: Place, standin: Standin, stores: Stores
) -> None:
    model = play(standin, OPENAI, AWAY, AWAY, Script(tokens=WORDS))
    events = await say(place.owner, place.conversation_id, "hello", model=model)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert steps_of(events) == [
        "run_started",
        *["attempt_started", "attempt_failed"] * 2,
        *["attempt_started", "content_started", "content_delta", "content_stopped", "run_completed"],
    ]
    run = events[-1].run_completed.run
    assert (text_of(events), run.attempt_count) == ("".join(WORDS), 3)
    failed = [event.attempt_failed for event in events if event.HasField("attempt_failed")]
    assert [(each.attempt, reason_of(each.failure)) for each in failed] == [
        (1, "PROVIDER_UNAVAILABLE"),
        (2, "PROVIDER_UNAVAILABLE"),
    ]
    assert await endings_of(stores, run.run_id) == [
        *[(1, "reserve"), (1, "release"), (2, "reserve"), (2, "release")],
        *[(3, "reserve"), (3, "settle")],
    ]
    assert [entry.cost for entry in await ledger_of(place)] == [run.cost]


async def test_each_attempt_tells_the_provider_its_own_id(place: Place, standin: Standin) -> None:
    model = play(standin, OPENAI, AWAY, Script())
    asked = len(standin.received)
    events = await say(place.owner, place.conversation_id, "hello", model=model)
    bodies = [received.body for received in standin.received[asked:]]
    assert len(bodies) == 2
    assert bodies[0] == bodies[1]
    assert events[-1].HasField("run_completed")


BILLED = {
    "silence": Script(fault=Stall(0)),
    "cut": Script(fault=Cut(0)),
    "clean cut": Script(fault=Cut(0, clean=True)),
    "error in the stream": Script(fault=ErrorEvent(0)),
}


@pytest.mark.parametrize("script", BILLED.values(), ids=BILLED)
async def test_what_the_provider_may_have_charged_is_estimated_and_marked(
    script: Script, place: Place, standin: Standin
) -> None:
    model = play(standin, OPENAI, script, Script(tokens=WORDS, usage=TokenUsage(10, 0, 0, 20, 0)))
    run = (await say(place.owner, place.conversation_id, "hello", model=model))[-1].run_completed.run
    second, first = await ledger_of(place)
    assert (first.estimated, first.tokens.input_tokens > 0, first.tokens.output_tokens) == (True, True, 0)
    assert (second.estimated, second.tokens.input_tokens) == (False, 10)
    assert run.usage.input_tokens == first.tokens.input_tokens + 10
    assert run.usage.output_tokens == 20
    assert run.cost.nanos == first.cost.nanos + second.cost.nanos == price(OPENAI, usage_of(run)).nanos
    assert run.usage_estimated


def usage_of(run: pb.Run) -> TokenUsage:
    return TokenUsage(run.usage.input_tokens, 0, 0, run.usage.output_tokens, 0)


async def test_a_provider_that_cannot_be_reached_costs_nothing(place: Place, app: App, standin: Standin) -> None:
    async with openai_at(app, "http://127.0.0.1:1/v1"):
        run = (await say(place.owner, place.conversation_id, "hello", model=OPENAI))[-1].run_failed.run
    assert (run.attempt_count, run.cost.nanos, await ledger_of(place)) == (3, 0, [])
    assert reason_of(run.failure) == "PROVIDER_UNAVAILABLE"


async def test_a_request_that_was_stopped_before_it_left_costs_nothing(
    place: Place, app: App, standin: Standin
) -> None:
    """The connection is still being made: its queue takes no more, and refuses nobody."""
    with full_queue() as url:
        async with openai_at(app, f"{url}/v1"):
            stream = send(place, model=OPENAI)
            while not (event := (await stream.read()).event).HasField("attempt_started"):
                pass
            run = (await place.owner.chat.CancelRun(pb.CancelRunRequest(run_id=event.run_id))).run
    assert (run.state, run.cost.nanos, await ledger_of(place)) == (pb.RUN_STATE_CANCELLED, 0, [])


async def test_a_request_that_was_stopped_after_it_left_is_estimated(place: Place, standin: Standin) -> None:
    model = play(standin, OPENAI, Script(seconds_before=60))
    asked = len(standin.received)
    stream = send(place, model=model)
    run_id = (await stream.read()).event.run_id
    await until_true(lambda: len(standin.received) > asked)
    run = (await place.owner.chat.CancelRun(pb.CancelRunRequest(run_id=run_id))).run
    assert (run.usage_estimated, run.usage.input_tokens > 0) == (True, True)


PROVOKED = {
    "an error of the server": Script(fault=HttpError(500)),
    "an answer that breaks off": Script(fault=Cut(0)),
    "silence": Script(fault=Stall(0)),
    "a filter": Script(fault=HttpError(403)),
    "a bad request": Script(fault=HttpError(400)),
    "a model that is gone": Script(fault=HttpError(404)),
    "a page": Script(fault=HttpError(502, "<html>")),
}


@pytest.mark.parametrize("script", PROVOKED.values(), ids=PROVOKED)
async def test_what_one_organization_provokes_shuts_out_no_other(
    script: Script, place: Place, app: App, standin: Standin, new_person: NewPerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.engine.manager, "deps", replace(app.engine.deps, tries_per_target=1))
    model = play(standin, OPENAI, script)
    for _ in range(FAILURES_IN_A_ROW):
        await say(place.owner, place.conversation_id, "hello", model=model)
    play(standin, OPENAI, Script(tokens=WORDS))
    other = await make_place(await new_person())
    assert text_of(await say(other.owner, other.conversation_id, "hello", model=model)) == "".join(WORDS)


async def test_a_wait_that_the_provider_asks_for_is_kept(place: Place, standin: Standin) -> None:
    limited = Script(fault=HttpError(429, headers=(("retry-after", "1.5"),)))
    model = play(standin, OPENAI, limited, Script())
    events = await say(place.owner, place.conversation_id, "hello", model=model)
    first, second = await attempts_of(place, events[0].run_id)
    assert second.start_time.ToNanoseconds() - first.end_time.ToNanoseconds() >= 1.5e9


async def test_a_cancelled_run_waits_for_nothing(place: Place, standin: Standin, stores: Stores) -> None:
    model = play(standin, OPENAI, Script(fault=HttpError(429, headers=(("retry-after", "19"),))))
    stream = send(place, model=model)
    events: list[pb.ChatEvent] = []
    while not events or not events[-1].HasField("attempt_failed"):
        events.append((await stream.read()).event)
    begin = asyncio.get_running_loop().time()
    run = (await place.owner.chat.CancelRun(pb.CancelRunRequest(run_id=events[0].run_id))).run
    assert asyncio.get_running_loop().time() - begin < 10
    assert run.state == pb.RUN_STATE_CANCELLED
    assert await endings_of(stores, run.run_id) == [(1, "reserve"), (1, "release")]


async def test_the_clock_of_the_run_covers_attempts_and_waits(
    place: Place, app: App, standin: Standin, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.engine.manager, "deps", replace(app.engine.deps, run_seconds=1.0))
    model = play(standin, OPENAI, Script(fault=HttpError(429, headers=(("retry-after", "15"),))))
    begin = asyncio.get_running_loop().time()
    run = (await say(place.owner, place.conversation_id, "hello", model=model))[-1].run_failed.run
    assert asyncio.get_running_loop().time() - begin < 10
    assert (reason_of(run.failure), run.failure.message) == ("PROVIDER_TIMEOUT", "The answer took too long.")
    play(standin, OPENAI, Script(tokens=WORDS * 1000, seconds_per_token=0.05))
    failed = (await say(place.owner, place.conversation_id, "hello", model=model))[-1].run_failed
    assert failed.run.failure.message == "The answer took too long."
    assert failed.message.contents[0].text.startswith("word0 word1 ")
    assert await endings_of(stores, failed.run.run_id) == [(1, "reserve"), (1, "settle")]


async def test_the_clock_of_the_run_fires_while_pings_arrive(
    place: Place, app: App, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.engine.manager, "deps", replace(app.engine.deps, run_seconds=0.5))
    model = play(standin, OPENAI, Script(tokens=WORDS, fault=Stall(5, ping_seconds=0.02)))
    failed = (await say(place.owner, place.conversation_id, "hello", model=model))[-1].run_failed
    assert failed.run.failure.message == "The answer took too long."
    assert failed.message.contents[0].text == "".join(WORDS[:5])


async def test_the_ai_log_tells_of_every_attempt(place: Place, standin: Standin) -> None:
    counted = TokenUsage(100, 60, 0, 20, 0)
    refused = Script(fault=HttpError(503, "Overloaded. Your key {key} is fine."))
    model = play(standin, OPENAI, refused, Script(tokens=WORDS, usage=counted))
    parameters = pb.ModelParameters(temperature=0.5, max_output_tokens=50, stop=["secret"], seed=7)
    run = (await events_of(send(place, model=model, parameters=parameters)))[-1].run_completed.run
    first, second = await attempts_of(place, run.run_id)
    assert (first.attempt, first.model, first.state, first.status) == (1, OPENAI, pb.ATTEMPT_STATE_FAILED, 503)
    assert reason_of(first.failure) == "PROVIDER_UNAVAILABLE"
    assert (first.usage.input_tokens, first.cost.nanos, first.HasField("first_content_time")) == (0, 0, False)
    assert (second.attempt, second.state, second.status) == (2, pb.ATTEMPT_STATE_COMPLETED, 200)
    assert (second.usage, second.cost, second.usage_estimated) == (run.usage, run.cost, False)
    assert second.parameters == pb.ModelParameters(temperature=0.5, max_output_tokens=50, seed=7)
    assert (second.message_count, second.own_key, second.continues) == (1, False, False)
    assert second.counted_input_tokens > 0
    times = [second.start_time, second.first_content_time, second.end_time]
    assert sorted(times, key=lambda time: time.ToNanoseconds()) == times
    assert not any(word in str([first, second]) for word in ("canary", "secret", "Overloaded"))


async def test_what_a_provider_said_stays_on_the_server(place: Place, app: App, standin: Standin) -> None:
    model = play(standin, OPENAI, Script(fault=HttpError(400, "Bad thing. Key: {key}")))
    events = await say(place.owner, place.conversation_id, "hello", model=model)
    stored = await app.mongo.database["runs"].find_one({"_id": uuid.UUID(events[0].run_id)})
    assert stored
    (attempt,) = stored["attempts"]
    assert "Bad thing" in attempt["error"]
    assert "canary" not in attempt["error"]


async def test_the_ai_log_comes_in_pages(place: Place, standin: Standin) -> None:
    model = play(standin, OPENAI, AWAY, AWAY, Script())
    run_id = (await say(place.owner, place.conversation_id, "hello", model=model))[0].run_id
    numbers, token = [], ""
    while True:
        request = pb.ListAttemptsRequest(run_id=run_id, page_size=2, page_token=token)
        page = await place.owner.chat.ListAttempts(request)
        numbers += [attempt.attempt for attempt in page.attempts]
        token = page.next_page_token
        if not token:
            break
    assert numbers == [1, 2, 3]


async def test_the_ai_log_goes_with_the_conversation(place: Place, app: App) -> None:
    run_id = (await say(place.owner, place.conversation_id, "hello"))[0].run_id
    mine = {"_id": uuid.UUID(run_id), "attempts.number": 1}
    assert await app.mongo.database["runs"].count_documents(mine) == 1
    await place.owner.chat.DeleteConversation(pb.DeleteConversationRequest(conversation_id=place.conversation_id))
    assert await app.mongo.database["runs"].count_documents(mine) == 0


async def test_an_error_with_half_a_character_ends_the_run_as_any_other(place: Place, standin: Standin) -> None:
    """No database takes it, and providers quote it when they cut what was said."""
    model = play(standin, OPENAI, Script(fault=HttpError(400, "bad: \ud83d", code="\ud83d")))
    events = await say(place.owner, place.conversation_id, "hello", model=model)
    run = events[-1].run_failed.run
    assert reason_of(run.failure) == "PROVIDER_REJECTED"
    (attempt,) = await attempts_of(place, run.run_id)
    assert attempt.status == 400


async def test_an_account_that_keeps_failing_is_left_alone(place: Place, standin: Standin) -> None:
    model = play(standin, OPENAI, Script(fault=HttpError(401)))
    for _ in range(5):
        await say(place.owner, place.conversation_id, "hello", model=model)
    asked = len(standin.received)
    play(standin, OPENAI, Script())
    events = await say(place.owner, place.conversation_id, "hello", model=model)
    assert kinds_of(events) == ["run_started", "attempt_failed", "run_failed"]
    assert reason_of(events[-1].run_failed.run.failure) == "PROVIDER_UNAVAILABLE"
    assert len(standin.received) == asked
    assert (await attempts_of(place, events[0].run_id))[0].status == 0
    assert (await ledger_of(place)) == []
    other = play(standin, ANTHROPIC, Script())
    assert kinds_of(await say(place.owner, place.conversation_id, "hello", model=other))[-1] == "run_completed"


@pytest.fixture
def narrow(app: App, monkeypatch: pytest.MonkeyPatch) -> ConcurrencyLimiter:
    """A limiter with one slot, and room for one in its queue."""
    limiter = ConcurrencyLimiter(1, 1, 1)
    monkeypatch.setattr(app.engine.manager, "deps", replace(app.engine.deps, limiter=limiter))
    return limiter


async def beside(place: Place) -> Place:
    """Another conversation there."""
    return replace(place, conversation_id=await make_conversation(place.owner, place.workspace_id))


async def test_what_does_not_fit_waits_and_is_refused_when_too_many_wait(
    place: Place, standin: Standin, narrow: ConcurrencyLimiter
) -> None:
    slow = play(standin, OPENAI, Script(tokens=WORDS, seconds_per_token=0.1), Script())
    second, third = await beside(place), await beside(place)
    streams = [send(place, model=slow)]
    while not (await streams[0].read()).event.HasField("content_delta"):
        pass
    asked = len(standin.received)
    streams.append(send(second, model=slow))
    assert (await streams[1].read()).event.HasField("run_started")
    refused = await refusal(events_of(send(third, model=slow)))
    assert refused is not None
    assert refused.code == "UNAVAILABLE"
    assert await messages_of(third) == []
    assert len(standin.received) == asked
    first, last = await asyncio.gather(*map(events_of, streams))
    assert (kinds_of(first)[-1], kinds_of(last)[-1]) == ("run_completed", "run_completed")
    assert narrow.idle


async def test_a_full_queue_refuses_nobody_who_was_let_in_before(
    place: Place, standin: Standin, narrow: ConcurrencyLimiter
) -> None:
    model, request_id = play(standin, OPENAI, Script(tokens=WORDS)), str(uuid.uuid4())
    first = await events_of(send(place, model=model, request_id=request_id))
    full = [narrow.acquire("openai", uuid.uuid4()) for _ in range(2)]
    assert await events_of(send(place, model=model, request_id=request_id)) == first
    for each in full:
        each.release()
    assert narrow.idle


async def test_who_waits_at_the_gate_can_be_cancelled_and_pays_nothing(
    place: Place, standin: Standin, narrow: ConcurrencyLimiter
) -> None:
    model = play(standin, OPENAI, Script())
    inside = narrow.acquire("openai", uuid.uuid4())
    stream = send(place, model=model)
    run_id = (await stream.read()).event.run_id
    asked = len(standin.received)
    run = (await place.owner.chat.CancelRun(pb.CancelRunRequest(run_id=run_id))).run
    assert (run.state, run.cost.nanos, await ledger_of(place)) == (pb.RUN_STATE_CANCELLED, 0, [])
    assert kinds_of(await events_of(stream)) == ["run_cancelled"]
    assert len(standin.received) == asked
    inside.release()
    assert narrow.idle


async def test_the_time_at_the_gate_counts(
    place: Place, app: App, standin: Standin, narrow: ConcurrencyLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.engine.manager, "deps", replace(app.engine.deps, limiter=narrow, run_seconds=0.5))
    model = play(standin, OPENAI, Script())
    inside = narrow.acquire("openai", uuid.uuid4())
    run = (await say(place.owner, place.conversation_id, "hello", model=model))[-1].run_failed.run
    assert (reason_of(run.failure), run.cost.nanos) == ("PROVIDER_TIMEOUT", 0)
    inside.release()
    assert narrow.idle
