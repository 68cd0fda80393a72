"""Runs: what a client sees of an answer, what is stored, and what it costs."""

import asyncio
import uuid
from itertools import pairwise
from typing import Any

import grpc
import pytest

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import common_pb2
from aiworkspace_server.app import App
from aiworkspace_server.llm.base import TokenUsage
from aiworkspace_server.llm.clock import Clocks
from aiworkspace_server.llm.prices import price
from tests.standin import Cut, ErrorEvent, HttpError, Script, Stall, Standin
from tests.support.ledger import ledger_of
from tests.support.people import NewPerson, Place, make_conversation, make_place
from tests.support.providers import use_clocks
from tests.support.runs import (
    ANTHROPIC,
    DEEPSEEK,
    OPENAI,
    WORDS,
    events_of,
    first_deltas,
    follow,
    kinds_of,
    messages_of,
    play,
    say,
    send,
    text_of,
)
from tests.support.waiting import until_true

MODELS = [OPENAI, ANTHROPIC, DEEPSEEK]


@pytest.fixture
def _short_idle_clock(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """For providers that fall silent in the middle."""
    use_clocks(app, Clocks(60, 60, 3), monkeypatch)


@pytest.mark.parametrize("model", MODELS)
async def test_an_answer_streams_and_is_stored_and_billed(model: str, place: Place, standin: Standin) -> None:
    counted = TokenUsage(100, 60, 0, 20, 0)
    play(standin, model, Script(tokens=WORDS, usage=counted, seconds_per_token=0.03, piece_bytes=7))
    events = await say(place.owner, place.conversation_id, "hello", model=model)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    kinds = kinds_of(events)
    assert kinds[:3] == ["run_started", "attempt_started", "content_started"]
    assert kinds[-2:] == ["content_stopped", "run_completed"]
    assert set(kinds[3:-2]) == {"content_delta"}
    assert kinds.count("content_delta") > 3, "the answer did not arrive piece by piece"
    ended = events[-1].run_completed
    assert ended.message.contents[0].text == text_of(events) == "".join(WORDS)
    assert ended.run.usage == common_pb2.TokenUsage(input_tokens=100, cached_input_tokens=60, output_tokens=20)
    assert not ended.run.usage_estimated
    cost = price(model, counted)
    assert (ended.run.cost.nanos, ended.run.cost.currency_code) == (cost.nanos, "USD")
    assert cost.nanos > 0
    entry, *others = await ledger_of(place)
    assert not others
    assert (entry.cost, entry.tokens, entry.run_id) == (ended.run.cost, ended.run.usage, ended.run.run_id)
    assert entry.price_version == cost.version
    question, answer = await messages_of(place)
    assert (question.contents[0].text, answer) == ("hello", ended.message)


async def test_the_first_event_does_not_wait_for_the_provider(place: Place, standin: Standin) -> None:
    model = play(standin, OPENAI, Script(seconds_before=60))
    asked = len(standin.received)
    stream = send(place, model=model)
    first = (await stream.read()).event
    assert first.run_started.run.state == pb.RUN_STATE_RUNNING
    assert first.run_started.user_message.contents[0].text == "hello"
    assert not any(received.done.is_set() for received in standin.received[asked:])
    await place.owner.chat.CancelRun(pb.CancelRunRequest(run_id=first.run_id))
    assert kinds_of(await events_of(stream))[-1] == "run_cancelled"


async def test_the_model_reads_the_system_prompt_and_the_conversation(place: Place, standin: Standin) -> None:
    model = play(standin, OPENAI, Script(tokens=("Paris",)))
    await say(place.owner, place.conversation_id, "Capital of France?", model=model)
    await say(place.owner, place.conversation_id, "And of Spain?", model=model)
    assert standin.received[-1].body["messages"][-3:] == [
        {"role": "user", "content": "Capital of France?"},
        {"role": "assistant", "content": "Paris"},
        {"role": "user", "content": "And of Spain?"},
    ]


async def test_thinking_is_a_piece_of_its_own_and_not_read_again(place: Place, standin: Standin) -> None:
    model = play(standin, DEEPSEEK, Script(thinking=("Hm", "."), tokens=("Yes",)))
    ended = (await say(place.owner, place.conversation_id, "Well?", model=model))[-1].run_completed
    assert [(content.kind, content.text) for content in ended.message.contents] == [
        (pb.CONTENT_KIND_THINKING, "Hm."),
        (pb.CONTENT_KIND_TEXT, "Yes"),
    ]
    events = await events_of(follow(place.owner, ended.run.run_id))
    deltas = [event.content_delta for event in events if event.HasField("content_delta")]
    assert {(delta.index, delta.kind) for delta in deltas} == {
        (0, pb.CONTENT_KIND_THINKING),
        (1, pb.CONTENT_KIND_TEXT),
    }
    await say(place.owner, place.conversation_id, "Sure?", model=model)
    assert {"role": "assistant", "content": "Yes"} in standin.received[-1].body["messages"]


REFUSALS = {
    "bad key": (HttpError(401, "Incorrect API key provided: {key}"), "PROVIDER_MISCONFIGURED"),
    "rate limit": (HttpError(429, headers=(("retry-after", "60"),)), "PROVIDER_RATE_LIMITED"),
    "overload": (HttpError(503), "PROVIDER_UNAVAILABLE"),
    "bad request": (HttpError(400), "PROVIDER_REJECTED"),
    "too long": (HttpError(400, code="context_length_exceeded"), "CONTEXT_TOO_LONG"),
}


@pytest.mark.parametrize(("fault", "reason"), REFUSALS.values(), ids=REFUSALS)
async def test_a_failure_before_the_answer_costs_nothing(
    fault: Any, reason: str, place: Place, standin: Standin
) -> None:
    model = play(standin, OPENAI, Script(fault=fault))
    events = await say(place.owner, place.conversation_id, "hello", model=model)
    assert set(kinds_of(events)[1:-1]) == {"attempt_started", "attempt_failed"}
    run = events[-1].run_failed.run
    assert (run.state, common_pb2.ErrorReason.Name(run.failure.reason)) == (
        pb.RUN_STATE_FAILED,
        f"ERROR_REASON_{reason}",
    )
    assert "canary" not in str(events)
    assert (run.cost.nanos, await ledger_of(place)) == (0, [])
    assert [message.role for message in await messages_of(place)] == [pb.MESSAGE_ROLE_USER]
    play(standin, OPENAI, Script())
    assert kinds_of(await say(place.owner, place.conversation_id, "again", model=model))[-1] == "run_completed"


BREAKS = {
    "error": (ErrorEvent(after=5), "PROVIDER_UNAVAILABLE"),
    "stall": (Stall(after=5), "PROVIDER_TIMEOUT"),
    "stall with pings": (Stall(after=5, ping_seconds=0.1), "PROVIDER_TIMEOUT"),
    "cut": (Cut(after=5), "PROVIDER_STREAM_CUT"),
    "clean cut": (Cut(after=5, clean=True), "PROVIDER_STREAM_CUT"),
}


@pytest.mark.parametrize("model", [OPENAI, ANTHROPIC])
@pytest.mark.parametrize(("fault", "reason"), BREAKS.values(), ids=BREAKS)
@pytest.mark.usefixtures("_short_idle_clock")
async def test_a_failure_in_the_middle_keeps_and_bills_what_was_said(
    fault: Any, reason: str, model: str, place: Place, standin: Standin
) -> None:
    play(standin, model, Script(tokens=WORDS, fault=fault, seconds_per_token=0.002))
    events = await say(place.owner, place.conversation_id, "hello", model=model)
    failed = events[-1].run_failed
    assert common_pb2.ErrorReason.Name(failed.run.failure.reason) == f"ERROR_REASON_{reason}"
    assert failed.message.contents[0].text == text_of(events) == "".join(WORDS[:5])
    assert failed.message.state == pb.MESSAGE_STATE_PARTIAL
    assert (await messages_of(place))[1] == failed.message
    entry, *others = await ledger_of(place)
    assert (entry.estimated, entry.cost.nanos > 0, entry.cost, others) == (True, True, failed.run.cost, [])


async def test_an_answer_without_usage_is_estimated_and_marked(place: Place, standin: Standin) -> None:
    model = play(standin, OPENAI, Script(tokens=WORDS, usage=None))
    run = (await say(place.owner, place.conversation_id, "hello", model=model))[-1].run_completed.run
    assert run.usage_estimated
    assert run.usage.output_tokens > 0
    assert run.cost.nanos > 0


async def test_the_same_request_twice_is_one_run_and_one_entry(place: Place) -> None:
    request_id = str(uuid.uuid4())
    first = await events_of(send(place, request_id=request_id))
    assert await events_of(send(place, request_id=request_id)) == first
    assert len(await ledger_of(place)) == 1
    assert len(await messages_of(place)) == 2


async def test_the_same_request_a_hundred_times_at_once_is_one_run(place: Place, standin: Standin) -> None:
    model = play(standin, OPENAI, Script(tokens=WORDS, seconds_per_token=0.01))
    asked, request_id = len(standin.received), str(uuid.uuid4())
    answers = await asyncio.gather(*(events_of(send(place, model=model, request_id=request_id)) for _ in range(100)))
    assert all(answer == answers[0] for answer in answers)
    assert len(standin.received) == asked + 1
    assert len(await ledger_of(place)) == 1


async def test_a_request_id_with_other_content_is_refused(place: Place) -> None:
    request_id = str(uuid.uuid4())
    await events_of(send(place, request_id=request_id))
    with pytest.raises(grpc.aio.AioRpcError, match="request_id") as caught:
        await events_of(send(place, "something else", request_id=request_id))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert len(await messages_of(place)) == 2


async def test_a_second_run_in_a_conversation_is_refused_while_the_first_lasts(place: Place, standin: Standin) -> None:
    model = play(standin, OPENAI, Script(tokens=WORDS * 50, seconds_per_token=0.05))
    stream = send(place, model=model)
    run_id = (await stream.read()).event.run_id
    conversation = await place.owner.chat.GetConversation(
        pb.GetConversationRequest(conversation_id=place.conversation_id)
    )
    assert conversation.conversation.active_run_id == run_id
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events_of(send(place))
    assert caught.value.code() == grpc.StatusCode.ABORTED
    await place.owner.chat.CancelRun(pb.CancelRunRequest(run_id=run_id))
    assert kinds_of(await events_of(send(place)))[-1] == "run_completed"


async def test_cancel_stops_the_provider_and_bills_what_was_said(place: Place, standin: Standin) -> None:
    model = play(standin, OPENAI, Script(tokens=WORDS * 50, seconds_per_token=0.01))
    stream = send(place, model=model)
    begun = await first_deltas(stream, 3)
    cancelled = await place.owner.chat.CancelRun(pb.CancelRunRequest(run_id=begun[0].run_id))
    events = begun + await events_of(stream)
    ended = events[-1].run_cancelled
    assert cancelled.run == ended.run
    assert ended.run.state == pb.RUN_STATE_CANCELLED
    assert ended.message.contents[0].text == text_of(events)
    assert ended.message.state == pb.MESSAGE_STATE_PARTIAL
    await asyncio.wait_for(standin.received[-1].done.wait(), 60)
    assert standin.received[-1].hung_up
    entry = (await ledger_of(place))[0]
    assert (entry.cost, entry.estimated) == (ended.run.cost, True)
    again = await place.owner.chat.CancelRun(pb.CancelRunRequest(run_id=begun[0].run_id))
    assert again.run == cancelled.run


PIECES = {
    "digits": ("7",) * 50,
    "spaces between digits": ("1 ", "2", " 3") * 17,
    "code": ("for", " (", "i", "=", "0", ";", "i", "<", "n", ";", "++", "i", ") {") * 4,
    "words": WORDS * 3,
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", PIECES)
async def test_cancel_after_n_pieces_charges_no_less_than_n_tokens(
    kind: str, model: str, place: Place, standin: Standin
) -> None:
    pieces = PIECES[kind]
    play(standin, model, Script(tokens=(*pieces, "never"), fault=Stall(after=len(pieces))))
    stream, seen = send(place, model=model), list[pb.ChatEvent]()
    while text_of(seen) != "".join(pieces):
        seen.append((await stream.read()).event)
    await place.owner.chat.CancelRun(pb.CancelRunRequest(run_id=seen[0].run_id))
    usage = (await events_of(stream))[-1].run_cancelled.run.usage
    assert len(pieces) <= usage.output_tokens <= 2 * len(pieces)
    (entry,) = await ledger_of(place)
    assert (entry.tokens, entry.estimated) == (usage, True)


async def test_a_lost_client_neither_stops_the_run_nor_makes_it_free(place: Place, standin: Standin) -> None:
    model = play(standin, OPENAI, Script(tokens=WORDS, seconds_per_token=0.02))
    stream = send(place, model=model)
    seen = await first_deltas(stream, 4)
    stream.cancel()
    resume = pb.StreamRunRequest(run_id=seen[0].run_id, after_sequence=seen[-1].sequence)
    rest = await events_of(place.owner.chat.StreamRun(resume))
    assert [event.sequence for event in seen + rest] == list(range(1, len(seen) + len(rest) + 1))
    assert text_of(seen + rest) == "".join(WORDS)
    assert kinds_of(rest)[-1] == "run_completed"
    assert len(await ledger_of(place)) == 1


async def test_every_suffix_of_a_run_that_ended_can_be_read_again(place: Place) -> None:
    events = await say(place.owner, place.conversation_id, "one two three")
    for after in range(len(events)):
        request = pb.StreamRunRequest(run_id=events[0].run_id, after_sequence=after)
        assert await events_of(place.owner.chat.StreamRun(request)) == events[after:]
    beyond = pb.StreamRunRequest(run_id=events[0].run_id, after_sequence=len(events) + 5)
    assert await events_of(place.owner.chat.StreamRun(beyond)) == events[-1:]


async def test_many_readers_see_the_same_run(place: Place, standin: Standin) -> None:
    model = play(standin, OPENAI, Script(tokens=WORDS, seconds_per_token=0.01))
    stream = send(place, model=model)
    first = (await stream.read()).event
    request = pb.StreamRunRequest(run_id=first.run_id)
    readers = [events_of(place.owner.chat.StreamRun(request)) for _ in range(8)]
    own, *others = await asyncio.gather(events_of(stream), *readers)
    assert all(other == [first, *own] for other in others)


async def test_a_sequence_that_was_not_sent_yet_is_out_of_range(place: Place, standin: Standin) -> None:
    model = play(standin, OPENAI, Script(tokens=WORDS * 50, seconds_per_token=0.05))
    first = (await send(place, model=model).read()).event
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events_of(follow(place.owner, first.run_id, 999))
    assert caught.value.code() == grpc.StatusCode.OUT_OF_RANGE
    await place.owner.chat.CancelRun(pb.CancelRunRequest(run_id=first.run_id))


async def test_get_run_shows_how_it_ended(place: Place) -> None:
    ended = (await say(place.owner, place.conversation_id, "hello"))[-1].run_completed
    request = pb.GetRunRequest(run_id=ended.run.run_id)
    assert (await place.owner.chat.GetRun(request)).run == ended.run


async def test_silence_is_filled_with_heartbeats(
    place: Place, app: App, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.engine.manager, "heartbeat_seconds", 0.3)
    model = play(standin, OPENAI, Script(tokens=WORDS[:2], seconds_before=1))
    events = await say(place.owner, place.conversation_id, "hello", model=model)
    assert any(event.HasField("heartbeat") for event in events)
    for before, event in pairwise(events):
        assert event.sequence == before.sequence + (not event.HasField("heartbeat"))
    again = await events_of(follow(place.owner, events[0].run_id))  # which may take long enough for another one
    stored, sent = [[event for event in each if not event.HasField("heartbeat")] for each in (again, events)]
    assert stored == sent


async def test_a_run_holds_no_database_connection_while_it_streams(place: Place, app: App, standin: Standin) -> None:
    model = play(standin, OPENAI, Script(tokens=WORDS * 50, seconds_per_token=0.05))
    stream = send(place, model=model)
    run_id = (await first_deltas(stream, 2))[0].run_id
    pool: Any = app.db.engine.pool
    # One holds the lock that keeps other servers off; those for the server's own affairs come and go.
    assert await until_true(lambda: pool.checkedout() == 1)
    await place.owner.chat.CancelRun(pb.CancelRunRequest(run_id=run_id))


async def test_nothing_is_left_behind(place: Place, app: App) -> None:
    await say(place.owner, place.conversation_id, "hello")
    assert await until_true(lambda: app.engine.manager.idle)


async def test_a_run_can_be_followed_after_its_conversation_moved_on(new_person: NewPerson) -> None:
    owner = await new_person()
    place = await make_place(owner)
    first = await say(owner, place.conversation_id, "one")
    await say(owner, place.conversation_id, "two")
    other = await make_conversation(owner, place.workspace_id)
    await say(owner, other, "three")
    assert await events_of(follow(owner, first[0].run_id)) == first
