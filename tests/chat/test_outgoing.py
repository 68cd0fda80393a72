"""What goes out to providers is valid for all of them, whatever was said in a conversation before."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.conversations.history import ContextTooLong, fit
from aiworkspace_server.llm.base import Role, Turn
from aiworkspace_server.llm.turns import BLANK, LONGEST_TEXT, alternate, clean, clean_system
from tests.standin import Cut, HttpError, Script, Stall, Standin
from tests.standin.strict import violation
from tests.support.people import Place
from tests.support.runs import ANTHROPIC, DEEPSEEK, OPENAI, events_of, play, say, send

ROLES: list[Role] = ["user", "assistant"]
TEXTS = st.sampled_from(["", " ", "\n\t", "\0", "\u3000", "a", "words ", "  b", "\0c\0", "x" * 4000, "😀"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=20
)
TURNS = st.lists(st.builds(Turn, st.sampled_from(ROLES), TEXTS), max_size=220)


def body(turns: list[Turn]) -> dict[str, Any]:
    return {"messages": [{"role": turn.role, "content": turn.text} for turn in turns]}


@given(TURNS, TEXTS, st.integers(0, 5000))
def test_any_history_becomes_one_that_every_provider_takes(before: list[Turn], asked: str, tokens: int) -> None:
    turns = [*before, Turn("user", asked)]
    try:
        sent = fit(turns, "", tokens)
    except ContextTooLong:
        assert tokens < len((asked + BLANK).encode()) // 4 + 6
        return
    assert violation(body(sent)) == ""
    assert sent[-1].text.endswith(asked.replace("\0", "") if asked.replace("\0", "").strip() else BLANK)
    assert alternate(clean(sent)) == sent


def test_nothing_that_was_said_is_lost() -> None:
    turns = [
        Turn("user", "one"),
        Turn("user", "two"),
        Turn("assistant", "2"),
        Turn("assistant", "3"),
        Turn("user", "4"),
    ]
    assert fit(turns, "", 1000) == [Turn("user", "one\n\ntwo"), Turn("assistant", "2\n\n3"), Turn("user", "4")]


def test_an_answer_that_came_first_is_left_out() -> None:
    assert fit([Turn("assistant", "one"), Turn("user", "two")], "", 1000) == [Turn("user", "two")]


def test_questions_without_answers_do_not_keep_the_next_one_out() -> None:
    """The last question fits by itself, and is not joined with those that do not fit beside it."""
    turns = [Turn("user", "x" * 4000)] * 3 + [Turn("user", "short")]
    assert fit(turns, "", 100) == [Turn("user", "short")]


def test_a_turn_that_is_too_long_loses_its_beginning() -> None:
    turns = [Turn("user", "a" * LONGEST_TEXT), Turn("user", "b" * LONGEST_TEXT)]
    [sent] = fit(turns, "", 10**7)
    assert sent.text == "b" * LONGEST_TEXT


def test_a_blank_system_prompt_is_none() -> None:
    assert [clean_system(text) for text in ("", " \n", "\0", "a\0b ")] == ["", "", "", "ab "]


FAILURES = {
    "an error": Script(fault=HttpError(400)),
    "nothing said": Script(tokens=()),
    "thinking alone": Script(thinking=("Hm.",), tokens=()),
    "blank": Script(tokens=(" ", "\n")),
    "cut before it began": Script(fault=Cut(0)),
    "cut in the middle": Script(fault=Cut(2)),
    "NUL": Script(tokens=("a\0", "\0")),
}


@pytest.mark.parametrize("model", [OPENAI, DEEPSEEK, ANTHROPIC])
async def test_a_conversation_goes_on_after_every_kind_of_failure(
    place: Place, app: App, standin: Standin, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.engine.manager, "deps", replace(app.engine.deps, tries_per_target=1))
    standin.strict = True
    for name, script in FAILURES.items():
        play(standin, model, script)
        for content in (name, " ", "\0"):
            await say(place.owner, place.conversation_id, content, model=model)
        play(standin, model, Script())
        ended = (await say(place.owner, place.conversation_id, "And now?", model=model))[-1]
        assert ended.HasField("run_completed"), (name, ended)


async def test_a_conversation_goes_on_after_answers_that_were_stopped(place: Place, standin: Standin) -> None:
    standin.strict = True
    for after in (0, 2):
        model = play(standin, DEEPSEEK, Script(fault=Stall(after)))
        stream = send(place, model=model)
        async with asyncio.timeout(60):
            while True:
                event = (await stream.read()).event
                if event.HasField("attempt_started" if after == 0 else "content_delta"):
                    break
        await place.owner.chat.CancelRun(pb.CancelRunRequest(run_id=event.run_id))
        await events_of(stream)
        play(standin, DEEPSEEK, Script())
        assert (await say(place.owner, place.conversation_id, "Again", model=model))[-1].HasField("run_completed")
