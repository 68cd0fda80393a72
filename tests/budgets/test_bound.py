"""Hard budgets hold for every text and every honest provider; what a dishonest one bills is charged and marked."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from aiworkspace.v1 import chat_pb2, usage_pb2
from aiworkspace_server.llm.base import ErrorKind, TokenUsage
from aiworkspace_server.llm.breaker import Pass
from aiworkspace_server.llm.prices import price
from aiworkspace_server.policies.plan import Plan, Plans
from tests.standin import BYTES, Cut, Script, Standin
from tests.support.budgets import EXHAUSTED, counted, make_budget
from tests.support.ledger import check_books, ledger_of, read_windows
from tests.support.outcomes import OK, outcome
from tests.support.people import Person, Place, make_conversation, make_place
from tests.support.runs import kinds_of, play, say
from tests.support.stores import Stores

MODELS = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "deepseek/deepseek-chat"]
OPENAI = MODELS[0]
CONTENTS = {
    "digits": "31415926535" * 300,
    "json": json.dumps([{"id": n, "quoted": 'a "b" \\ c'} for n in range(200)]),
    "ethiopic": "ሰላም ለዓለም " * 200,
    "emoji": "👩🏽‍🚀🦀" * 200,
    "control characters": "\x01\x02\x1f\x7f" * 500,
    "combining marks": "a\u0301\u0316\u0327" * 300,
}
TEXTS = st.one_of(
    st.text(min_size=1, max_size=500),
    st.text("0123456789", min_size=1, max_size=500),
    st.text(st.characters(min_codepoint=0x1200, max_codepoint=0x139F), min_size=1, max_size=200),
    st.text(st.characters(min_codepoint=0x1F300, max_codepoint=0x1FAFF), min_size=1, max_size=200),
    st.text(st.characters(max_codepoint=0x1F), min_size=1, max_size=200),
    st.text(st.characters(min_codepoint=0x300, max_codepoint=0x36F), min_size=1, max_size=200),
)


def brief(tokens: int = 50) -> dict[str, Any]:
    return {"parameters": chat_pb2.ModelParameters(max_output_tokens=tokens)}


async def check_within_reservations(place: Place) -> None:
    reserved = await ledger_of(place, kinds=[usage_pb2.USAGE_ENTRY_KIND_RESERVE])
    settled = await ledger_of(place, kinds=[usage_pb2.USAGE_ENTRY_KIND_SETTLE])
    amounts = {(entry.run_id, entry.attempt): entry.reserved.nanos for entry in reserved}
    assert settled
    for entry in settled:
        assert entry.cost.nanos <= amounts[entry.run_id, entry.attempt]
        assert not entry.above_limit


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", CONTENTS)
async def test_a_provider_that_bills_a_token_for_each_byte_stays_within_what_was_reserved(
    kind: str, model: str, place: Place, standin: Standin
) -> None:
    """Also with the answer of before in the conversation, all of it written to the provider's cache."""
    play(standin, model, Script(tokens=("ok",) * 10, usage=BYTES))
    for _ in range(2):
        assert kinds_of(await say(place.owner, place.conversation_id, CONTENTS[kind], model=model, **brief()))[-1] == (
            "run_completed"
        )
    await check_within_reservations(place)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS, share=st.floats(0.3, 4), model=st.sampled_from(MODELS), output=st.integers(1, 60))
async def test_no_more_than_the_limit_is_settled_whatever_is_said(
    text: str, share: float, model: str, output: int, owner: Person, standin: Standin, stores: Stores
) -> None:
    """With a limit for a part of an answer, or for some of them, until the next is refused."""
    place = await make_place(owner)
    play(standin, model, Script(tokens=("ok",) * 70, usage=BYTES))
    most = price(model, TokenUsage(len(text.encode()) + 50, 0, 0, output, 0)).nanos
    budget = await make_budget(owner, place.org_id, max(1, int(most * share)))
    for _ in range(4):
        if await outcome(say(owner, place.conversation_id, text, model=model, **brief(output))) == EXHAUSTED:
            break
    settled, reserved = await counted(owner, budget)
    assert (settled <= budget.limit.nanos, reserved) == (True, 0)
    await check_books(stores, place.org_id)


async def test_sixteen_at_once_settle_no_more_than_the_limit(owner: Person, standin: Standin, stores: Stores) -> None:
    place = await make_place(owner)
    model = play(standin, OPENAI, Script(tokens=("ok",) * 10, usage=BYTES))
    content = CONTENTS["digits"]
    most = price(model, TokenUsage(len(content), 0, 0, 50, 0)).nanos
    budget = await make_budget(owner, place.org_id, 7 * most)
    conversations = [await make_conversation(owner, place.workspace_id, model) for _ in range(16)]
    ended = await asyncio.gather(*(outcome(say(owner, each, content, **brief())) for each in conversations))
    assert {*ended} == {OK, EXHAUSTED}
    settled, reserved = await counted(owner, budget)
    assert 0 < settled <= budget.limit.nanos
    assert reserved == 0
    assert all(sum(window) <= budget.limit.nanos for window in (await read_windows(stores, place.org_id)).values())


async def test_an_answer_that_is_gone_on_with_stays_within_what_was_reserved(
    place: Place, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text so far and the request to go on are in the second reservation."""
    make = Plans.make

    async def planned(plans: Plans, *rest: Any, **chosen: Any) -> Plan:
        return replace(await make(plans, *rest, **chosen), continue_broken_answers=True)

    monkeypatch.setattr(Plans, "make", planned)
    broken = Script(tokens=("123 ",) * 200, usage=BYTES, fault=Cut(after=150, clean=True))
    model = play(standin, OPENAI, broken, Script(tokens=("456 ",) * 20, usage=BYTES))
    events = await say(place.owner, place.conversation_id, "count", model=model, **brief(300))
    assert events[-1].run_completed.run.attempt_count == 2
    await check_within_reservations(place)


# Providers that bill for more than was asked of them


async def test_output_above_what_was_asked_is_charged_as_billed_marked_and_logged(
    place: Place, standin: Standin, stores: Stores
) -> None:
    usage = TokenUsage(10, 0, 0, 5_000, 0)
    model = play(standin, OPENAI, Script(usage=usage))
    with capture_logs() as logs:
        events = await say(place.owner, place.conversation_id, "hello", model=model, **brief(100))
    run = events[-1].run_completed.run
    assert (run.usage.output_tokens, run.usage_estimated) == (5_000, False)
    assert run.cost.nanos == price(model, usage).nanos
    (entry,) = await ledger_of(place, kinds=[])
    assert (entry.above_limit, entry.estimated, entry.cost, entry.tokens) == (True, False, run.cost, run.usage)
    (logged,) = (line for line in logs if line["event"] == "usage_above_limit")
    assert (logged["log_level"], logged["run_id"], logged["output_tokens"]) == ("error", run.run_id, 5_000)
    assert logged["max_output_tokens"] == 100
    await check_books(stores, place.org_id)


@pytest.mark.parametrize(("output", "counts"), [(100, False), (101, True)])
async def test_output_above_what_was_asked_counts_against_the_provider(
    output: int, counts: bool, place: Place, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[ErrorKind] = []
    monkeypatch.setattr(Pass, "failed", lambda admitted, kind: failed.append(kind))
    model = play(standin, OPENAI, Script(usage=TokenUsage(10, 0, 0, output, 0)))
    events = await say(place.owner, place.conversation_id, "hello", model=model, **brief(100))
    assert kinds_of(events)[-1] == "run_completed"
    assert failed == [ErrorKind.OVERBILLED] * counts


async def test_a_minimum_of_the_provider_does_not_count_against_it(
    place: Place, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one who asks for single tokens would shut the provider for everybody."""
    failed: list[ErrorKind] = []
    monkeypatch.setattr(Pass, "failed", lambda admitted, kind: failed.append(kind))
    model = play(standin, OPENAI, Script(usage=TokenUsage(10, 0, 0, 16, 0)))
    await say(place.owner, place.conversation_id, "hello", model=model, **brief(1))
    assert [entry.above_limit for entry in await ledger_of(place, kinds=[])] == [True]
    assert not failed


async def test_an_absurd_count_is_neither_believed_nor_charged(place: Place, standin: Standin) -> None:
    model = play(standin, OPENAI, Script(usage=TokenUsage(10, 0, 0, 90_000_000, 0)))
    run = (await say(place.owner, place.conversation_id, "hello", model=model, **brief(100)))[-1].run_completed.run
    assert (run.usage_estimated, run.usage.output_tokens <= 100) == (True, True)
    (entry,) = await ledger_of(place, kinds=[])
    assert (entry.estimated, entry.above_limit) == (True, False)
