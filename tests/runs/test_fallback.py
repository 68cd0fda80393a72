"""Falling back to another model: before the first content, in the middle of an answer, and beside a silent one."""

import uuid
from dataclasses import replace
from unittest.mock import AsyncMock

import pytest

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import model_pb2
from aiworkspace_server.app import App
from aiworkspace_server.conversations import history as context
from aiworkspace_server.kit.concurrency import ConcurrencyLimiter
from aiworkspace_server.llm.base import TokenUsage
from aiworkspace_server.llm.openai_wire import OpenAIProvider
from tests.standin import Cut, ErrorEvent, HttpError, Script, Stall, Standin
from tests.support.budgets import counted, make_budget
from tests.support.ledger import ledger_of
from tests.support.outcomes import refusal
from tests.support.people import Place, make_conversation, make_place
from tests.support.runs import (
    ANTHROPIC,
    DEEPSEEK,
    OPENAI,
    WORDS,
    attempts_of,
    endings_of,
    events_of,
    follow,
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

from .conftest import PlanFor

pytestmark = pytest.mark.usefixtures("short_clocks")

DEAR = "anthropic/claude-opus-4-1"
FALLEN_BACK = ["run_started", "attempt_started", "attempt_failed", "attempt_started", "content_started"]
GOES_ON = [*FALLEN_BACK[:2], "content_started", "content_delta", "attempt_failed", "attempt_started", "content_delta"]
GOES_ON += ["content_stopped", "run_completed"]


async def test_what_no_retry_helps_with_is_asked_of_the_next_model(
    place: Place, standin: Standin, plan_for: PlanFor
) -> None:
    plan_for(ANTHROPIC)
    play(standin, OPENAI, Script(fault=HttpError(401)))
    play(standin, ANTHROPIC, Script(tokens=WORDS))
    events = await say(place.owner, place.conversation_id, "hello", model=OPENAI)
    assert steps_of(events)[:5] == FALLEN_BACK
    ended = events[-1].run_completed
    assert (ended.run.model, ended.message.model, ended.run.attempt_count) == (OPENAI, ANTHROPIC, 2)
    assert [entry.model for entry in await ledger_of(place)] == [ANTHROPIC]
    assert ended.message.contents[0].text == text_of(events) == "".join(WORDS)


LED_ON = {
    "a model that is gone": (HttpError(404, type="not_found_error"), "PROVIDER_MODEL_NOT_FOUND"),
    "a model for others": (HttpError(403, code="model_not_found"), "PROVIDER_MODEL_NOT_FOUND"),
    "a key that is refused": (HttpError(401), "PROVIDER_MISCONFIGURED"),
    "an account that may not": (HttpError(403), "PROVIDER_MISCONFIGURED"),
    "no credit": (HttpError(402), "PROVIDER_MISCONFIGURED"),
    "a redirect": (HttpError(307, headers=(("location", "http://127.0.0.1:1/"),)), "PROVIDER_MISCONFIGURED"),
    "parameters it does not take": (HttpError(400), "PROVIDER_REJECTED"),
    "a policy of its own": (HttpError(422, code="content_policy_violation"), "PROVIDER_REJECTED"),
    "a context that is too small": (HttpError(413), "CONTEXT_TOO_LONG"),
    "a long wait": (HttpError(429, headers=(("retry-after", "3600"),)), "PROVIDER_RATE_LIMITED"),
    "overload": (HttpError(529), "PROVIDER_UNAVAILABLE"),
}


@pytest.mark.parametrize(("fault", "reason"), LED_ON.values(), ids=LED_ON)
async def test_what_another_model_may_not_have_leads_on_to_it_and_costs_nothing(
    place: Place, standin: Standin, plan_for: PlanFor, fault: HttpError, reason: str
) -> None:
    plan_for(ANTHROPIC)
    play(standin, OPENAI, Script(fault=fault))
    play(standin, ANTHROPIC, Script(tokens=WORDS))
    events = await say(place.owner, place.conversation_id, "hello", model=OPENAI)
    failed = [event.attempt_failed for event in events if event.HasField("attempt_failed")]
    assert {reason_of(each.failure) for each in failed} == {reason}
    assert text_of(events) == "".join(WORDS)
    assert [entry.model for entry in await ledger_of(place)] == [ANTHROPIC]


async def test_after_the_last_model_the_run_fails_as_the_last_one_did(
    place: Place, standin: Standin, plan_for: PlanFor
) -> None:
    plan_for(ANTHROPIC, DEEPSEEK)
    play(standin, OPENAI, Script(fault=HttpError(401)))
    play(standin, ANTHROPIC, Script(fault=HttpError(413)))
    play(standin, DEEPSEEK, Script(fault=HttpError(400)))
    events = await say(place.owner, place.conversation_id, "hello", model=OPENAI)
    failed = [event.attempt_failed for event in events if event.HasField("attempt_failed")]
    assert [(each.model, reason_of(each.failure)) for each in failed] == [
        (OPENAI, "PROVIDER_MISCONFIGURED"),
        (ANTHROPIC, "CONTEXT_TOO_LONG"),
        (DEEPSEEK, "PROVIDER_REJECTED"),
    ]
    assert reason_of(events[-1].run_failed.run.failure) == "PROVIDER_REJECTED"


async def test_silence_falls_back_at_once_and_both_are_billed(
    place: Place, standin: Standin, plan_for: PlanFor, stores: Stores
) -> None:
    plan_for(ANTHROPIC)
    play(standin, OPENAI, Script(fault=Stall(0, ping_seconds=0.1)))
    play(standin, ANTHROPIC, Script(tokens=WORDS))
    run = (await say(place.owner, place.conversation_id, "hello", model=OPENAI))[-1].run_completed.run
    assert await endings_of(stores, run.run_id) == [(1, "reserve"), (1, "settle"), (2, "reserve"), (2, "settle")]
    entries = await ledger_of(place)
    assert [(entry.model, entry.estimated) for entry in entries] == [(ANTHROPIC, False), (OPENAI, True)]
    assert run.cost.nanos == sum(entry.cost.nanos for entry in entries)


BREAKS = {"cut": Cut(8), "error": ErrorEvent(8), "silence": Stall(8)}


@pytest.mark.parametrize("fault", BREAKS.values(), ids=BREAKS)
async def test_a_broken_answer_is_gone_on_with_by_the_next_model(
    fault: Cut | ErrorEvent | Stall, place: Place, standin: Standin, plan_for: PlanFor
) -> None:
    plan_for(ANTHROPIC, continue_broken_answers=True)
    play(standin, OPENAI, Script(tokens=WORDS, fault=fault, seconds_per_token=0.002))
    play(standin, ANTHROPIC, Script(tokens=WORDS[5:], usage=TokenUsage(30, 0, 0, 15, 0)))
    events = await say(place.owner, place.conversation_id, "hello", model=OPENAI)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert steps_of(events) == GOES_ON
    started = [event.attempt_started for event in events if event.HasField("attempt_started")]
    assert [(each.attempt, each.model, each.continues) for each in started] == [
        (1, OPENAI, False),
        (2, ANTHROPIC, True),
    ]
    ended = events[-1].run_completed
    assert [content.text for content in ended.message.contents] == [text_of(events)] == ["".join(WORDS)]
    assert (ended.message.model, ended.message.state) == (ANTHROPIC, pb.MESSAGE_STATE_COMPLETE)
    asked = standin.received[-1].body["messages"]
    assert [message["role"] for message in asked] == ["user", "assistant", "user"]
    assert asked[1]["content"] == "".join(WORDS[:8])
    second, first = await ledger_of(place)
    assert (first.model, first.estimated, first.tokens.output_tokens > 0) == (OPENAI, True, True)
    assert (second.model, second.estimated, second.tokens.output_tokens) == (ANTHROPIC, False, 15)
    assert [attempt.continues for attempt in await attempts_of(place, ended.run.run_id)] == [False, True]
    assert (await messages_of(place))[1] == ended.message
    stored = await events_of(follow(place.owner, ended.run.run_id))
    assert stored == events


async def test_without_another_model_the_same_one_goes_on_once(
    place: Place, standin: Standin, plan_for: PlanFor
) -> None:
    plan_for(continue_broken_answers=True)
    broken = Script(tokens=WORDS, fault=Cut(4))
    play(standin, OPENAI, broken, Script(tokens=WORDS[4:], fault=Cut(4)), Script())
    events = await say(place.owner, place.conversation_id, "hello", model=OPENAI)
    failed = events[-1].run_failed
    assert (failed.run.attempt_count, reason_of(failed.run.failure)) == (2, "PROVIDER_STREAM_CUT")
    assert failed.message.contents[0].text == text_of(events) == "".join(WORDS[:8])
    assert len(await ledger_of(place)) == 2


async def test_a_model_that_goes_on_is_tried_again_too(place: Place, standin: Standin, plan_for: PlanFor) -> None:
    plan_for(ANTHROPIC, continue_broken_answers=True)
    play(standin, OPENAI, Script(tokens=WORDS, fault=Cut(4)))
    play(standin, ANTHROPIC, Script(fault=HttpError(529)), Script(tokens=("".join(WORDS[:6]), *WORDS[6:])))
    events = await say(place.owner, place.conversation_id, "hello", model=OPENAI)
    assert events[-1].run_completed.message.contents[0].text == text_of(events) == "".join(WORDS)
    started = [event.attempt_started for event in events if event.HasField("attempt_started")]
    assert [each.continues for each in started] == [False, True, True]


async def test_without_leave_to_go_on_a_broken_answer_stays_as_it_is(
    place: Place, standin: Standin, plan_for: PlanFor
) -> None:
    plan_for(ANTHROPIC)
    play(standin, OPENAI, Script(tokens=WORDS, fault=Cut(4)))
    failed = (await say(place.owner, place.conversation_id, "hello", model=OPENAI))[-1].run_failed
    assert (failed.run.attempt_count, failed.message.model) == (1, OPENAI)


async def test_what_was_only_thought_is_not_gone_on_with_in_words(
    place: Place, standin: Standin, plan_for: PlanFor
) -> None:
    plan_for(OPENAI, continue_broken_answers=True)
    play(standin, DEEPSEEK, Script(thinking=("Hm, ", "well"), tokens=("Yes",), fault=Cut(2)))
    play(standin, OPENAI, Script(tokens=("No",)))
    ended = (await say(place.owner, place.conversation_id, "Well?", model=DEEPSEEK))[-1].run_completed
    assert [content.text for content in ended.message.contents] == ["Hm, well", "No"]
    assert standin.received[-1].body["messages"] == [{"role": "user", "content": "Well?"}]


# Hedging


async def test_beside_a_silent_model_the_next_is_asked_and_the_first_to_speak_wins(
    place: Place, standin: Standin, plan_for: PlanFor, stores: Stores
) -> None:
    plan_for(ANTHROPIC, hedge_after_seconds=0.2)
    play(standin, OPENAI, Script(seconds_before=30))
    play(standin, ANTHROPIC, Script(tokens=WORDS))
    events = await say(place.owner, place.conversation_id, "hello", model=OPENAI)
    assert steps_of(events)[:4] == ["run_started", "attempt_started", "attempt_failed", "content_started"]
    assert [event.attempt_started.attempt for event in events if event.HasField("attempt_started")] == [1, 2]
    lost = next(event.attempt_failed for event in events if event.HasField("attempt_failed"))
    assert (lost.attempt, lost.HasField("failure")) == (1, False)
    ended = events[-1].run_completed
    assert (ended.message.model, text_of(events)) == (ANTHROPIC, "".join(WORDS))
    states = [attempt.state for attempt in await attempts_of(place, ended.run.run_id)]
    assert states == [pb.ATTEMPT_STATE_CANCELLED, pb.ATTEMPT_STATE_COMPLETED]
    assert await endings_of(stores, ended.run.run_id) == [(1, "reserve"), (1, "settle"), (2, "reserve"), (2, "settle")]
    assert [(e.estimated, e.tokens.output_tokens > 0) for e in await ledger_of(place)] == [(False, True), (True, False)]


async def test_the_first_may_still_win(place: Place, standin: Standin, plan_for: PlanFor) -> None:
    plan_for(ANTHROPIC, hedge_after_seconds=0.1)
    play(standin, OPENAI, Script(tokens=WORDS, seconds_before=1.2))
    play(standin, ANTHROPIC, Script(seconds_before=30))
    events = await say(place.owner, place.conversation_id, "hello", model=OPENAI)
    ended = events[-1].run_completed
    assert (ended.message.model, text_of(events)) == (OPENAI, "".join(WORDS))
    states = [attempt.state for attempt in await attempts_of(place, ended.run.run_id)]
    assert states == [pb.ATTEMPT_STATE_COMPLETED, pb.ATTEMPT_STATE_CANCELLED]


async def test_nobody_is_asked_beside_a_model_that_speaks(place: Place, standin: Standin, plan_for: PlanFor) -> None:
    plan_for(ANTHROPIC, hedge_after_seconds=30)
    play(standin, OPENAI, Script(tokens=WORDS))
    events = await say(place.owner, place.conversation_id, "hello", model=OPENAI)
    assert events[-1].run_completed.run.attempt_count == 1


async def test_when_both_fail_the_run_goes_on_from_the_second(
    place: Place, standin: Standin, plan_for: PlanFor
) -> None:
    plan_for(ANTHROPIC, DEEPSEEK, hedge_after_seconds=0.1)
    play(standin, OPENAI, Script(seconds_before=0.5, fault=HttpError(401)))
    play(standin, ANTHROPIC, Script(seconds_before=0.5, fault=HttpError(401)))
    play(standin, DEEPSEEK, Script(tokens=WORDS))
    events = await say(place.owner, place.conversation_id, "hello", model=OPENAI)
    ended = events[-1].run_completed
    assert (ended.message.model, ended.run.attempt_count) == (DEEPSEEK, 3)
    assert len(await ledger_of(place)) == 1


async def test_a_cancelled_run_stops_both(place: Place, standin: Standin, plan_for: PlanFor, stores: Stores) -> None:
    plan_for(ANTHROPIC, hedge_after_seconds=0.1)
    play(standin, OPENAI, Script(seconds_before=30))
    play(standin, ANTHROPIC, Script(seconds_before=30))
    stream = send(place, model=OPENAI)
    events: list[pb.ChatEvent] = []
    while kinds_of(events).count("attempt_started") < 2:
        events.append((await stream.read()).event)
    run = (await place.owner.chat.CancelRun(pb.CancelRunRequest(run_id=events[0].run_id))).run
    assert run.state == pb.RUN_STATE_CANCELLED
    assert await endings_of(stores, run.run_id) == [(1, "reserve"), (1, "settle"), (2, "reserve"), (2, "settle")]
    states = [attempt.state for attempt in await attempts_of(place, run.run_id)]
    assert states == [pb.ATTEMPT_STATE_CANCELLED] * 2


# What forbids the next attempt


async def test_a_budget_that_has_not_enough_for_the_fallback_ends_the_run(
    place: Place, standin: Standin, plan_for: PlanFor, stores: Stores
) -> None:
    plan_for(DEAR)
    budget = await make_budget(place.owner, place.org_id, 20_000_000)
    play(standin, OPENAI, Script(fault=HttpError(401)))
    asked = len(standin.received)
    events = await say(place.owner, place.conversation_id, "hello", model=OPENAI)
    run = events[-1].run_failed.run
    assert (reason_of(run.failure), run.attempt_count) == ("BUDGET_EXHAUSTED", 1)
    assert len(standin.received) == asked + 1
    assert await endings_of(stores, run.run_id) == [(1, "reserve"), (1, "release")]
    assert await counted(place.owner, budget) == (0, 0)


async def test_a_fallback_whose_context_is_too_small_is_passed_over(
    place: Place, standin: Standin, plan_for: PlanFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_for(ANTHROPIC, DEEPSEEK)
    whole = context.room
    monkeypatch.setattr(
        "aiworkspace_server.runs.executor.room",
        lambda target, tokens: 0 if target.model == ANTHROPIC else whole(target, tokens),
    )
    play(standin, OPENAI, Script(fault=HttpError(401)))
    play(standin, DEEPSEEK, Script(tokens=WORDS))
    ended = (await say(place.owner, place.conversation_id, "hello", model=OPENAI))[-1].run_completed
    assert (ended.message.model, ended.run.attempt_count) == (DEEPSEEK, 2)


async def test_when_no_fallback_has_room_the_run_says_so(
    place: Place, standin: Standin, plan_for: PlanFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_for(ANTHROPIC)
    monkeypatch.setattr("aiworkspace_server.runs.executor.room", lambda target, tokens: 0)
    play(standin, OPENAI, Script(fault=HttpError(401)))
    run = (await say(place.owner, place.conversation_id, "hello", model=OPENAI))[-1].run_failed.run
    assert reason_of(run.failure) == "CONTEXT_TOO_LONG"


async def test_a_first_model_whose_context_is_too_small_is_passed_over(
    place: Place, standin: Standin, plan_for: PlanFor
) -> None:
    plan_for(DEEPSEEK, ANTHROPIC)
    play(standin, ANTHROPIC, Script(tokens=WORDS))
    events = await say(place.owner, place.conversation_id, "words " * 60_000, model="openai/gpt-4")
    ended = events[-1].run_completed
    assert (ended.run.model, ended.message.model, ended.run.attempt_count) == ("openai/gpt-4", ANTHROPIC, 1)
    assert [entry.model for entry in await ledger_of(place)] == [ANTHROPIC]


async def test_a_first_model_whose_provider_has_no_room_is_passed_over(
    place: Place, app: App, standin: Standin, plan_for: PlanFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_for(ANTHROPIC)
    limiter = ConcurrencyLimiter(1, 10, 0)
    monkeypatch.setattr(app.engine.manager, "deps", replace(app.engine.deps, limiter=limiter))
    play(standin, ANTHROPIC, Script(tokens=WORDS))
    inside = limiter.acquire("openai", uuid.uuid4())
    ended = (await say(place.owner, place.conversation_id, "hello", model=OPENAI))[-1].run_completed
    assert (ended.run.model, ended.message.model) == (OPENAI, ANTHROPIC)
    inside.release()
    assert limiter.idle


async def test_a_provider_without_room_uses_up_no_limit_of_its_models(
    place: Place, app: App, standin: Standin, plan_for: PlanFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await make_place(place.owner)
    limits = [model_pb2.ModelLimit(model=OPENAI, requests_per_minute=2)]
    policy = model_pb2.ModelPolicy(fallback_models=[ANTHROPIC], limits=limits)
    await place.owner.models.SetOrgModelPolicy(model_pb2.SetOrgModelPolicyRequest(org_id=place.org_id, policy=policy))
    limiter = ConcurrencyLimiter(1, 10, 0)
    monkeypatch.setattr(app.engine.manager, "deps", replace(app.engine.deps, limiter=limiter))
    play(standin, ANTHROPIC, Script(tokens=WORDS))
    play(standin, OPENAI, Script(tokens=WORDS))
    inside = limiter.acquire("openai", uuid.uuid4())
    for _ in range(3):
        ended = (await say(place.owner, place.conversation_id, "hello", model=OPENAI))[-1].run_completed
        assert ended.message.model == ANTHROPIC
    inside.release()
    ended = (await say(place.owner, place.conversation_id, "hello", model=OPENAI))[-1].run_completed
    assert ended.message.model == OPENAI
    assert limiter.idle


async def test_a_conversation_whose_model_is_gone_goes_on_with_the_fallback(
    place: Place, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of the list since a new release, or without a key since the operator took it away."""
    place = await make_place(place.owner)
    gone = await make_conversation(place.owner, place.workspace_id, model=OPENAI)
    policy = model_pb2.ModelPolicy(fallback_models=[ANTHROPIC])
    await place.owner.models.SetOrgModelPolicy(model_pb2.SetOrgModelPolicyRequest(org_id=place.org_id, policy=policy))
    monkeypatch.setattr(OpenAIProvider, "has", AsyncMock(return_value=False))
    play(standin, ANTHROPIC, Script(tokens=WORDS))
    ended = (await say(place.owner, gone, "hello"))[-1].run_completed
    assert (ended.run.model, ended.message.model) == (OPENAI, ANTHROPIC)
    refused = await refusal(say(place.owner, gone, "hello", model=OPENAI))
    assert refused is not None
    assert refused.code == "INVALID_ARGUMENT"
