import asyncio

import pytest

from aiworkspace_server.llm.base import Delta, Finish, ModelRequest, Parameters, TokenUsage, Turn
from aiworkspace_server.llm.echo import OPENING, EchoProvider
from aiworkspace_server.llm.prices import price

from .answers import answer, question

WORDS = len(OPENING.split())
_TRIES = 10  # of what a busy machine may slow down


def asking(*texts: str, system: str = "", limit: int = 1000) -> ModelRequest:
    return ModelRequest("echo", system, [Turn("user", text) for text in texts], limit)


@pytest.mark.parametrize("text", ["Hello there", "one\n\ntwo\tthree  ", "  ", "", "äöü 😀 \u2028x", "word " * 499])
async def test_it_says_what_it_was_told(text: str) -> None:
    result = await answer(EchoProvider(0), asking(text))
    assert result.text == OPENING + text.lstrip()
    assert result.finish == "stop"


async def test_it_repeats_the_last_thing_that_the_user_said() -> None:
    turns = [Turn("user", "first"), Turn("user", "second"), Turn("assistant", "third")]
    assert (await answer(EchoProvider(0), ModelRequest("echo", "", turns, 99))).text == OPENING + "second"


async def test_usage_is_exact_after_every_word() -> None:
    request = ModelRequest(
        "echo", "You are kind.", [Turn("user", "a b"), Turn("assistant", "c"), Turn("user", "d e f")], 99
    )
    result = await answer(EchoProvider(0), request)
    assert [usage.output_tokens for usage in result.usages] == [*range(1, WORDS + 4), WORDS + 3]
    assert set(result.usages) == {TokenUsage(3 + 2 + 1 + 3, 0, 0, said, 0) for said in range(1, WORDS + 4)}
    assert sum(isinstance(piece, Delta) for piece in result.pieces) == WORDS + 3


@pytest.mark.parametrize("limit", [1, 5, WORDS, WORDS + 1])
async def test_it_keeps_to_the_limit(limit: int) -> None:
    result = await answer(EchoProvider(0), asking("hello world", limit=limit))
    assert result.text.split() == f"{OPENING}hello world".split()[:limit]
    assert (result.usages[-1].output_tokens, result.finish) == (limit, "length")


async def test_exactly_the_limit_is_no_cut() -> None:
    assert (await answer(EchoProvider(0), asking("hello", limit=WORDS + 1))).finish == "stop"


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (("lo wo",), f"{OPENING}hel"),
        (("world", " wor"), f"{OPENING}hello"),
        (("This",), ""),
        (("none",), f"{OPENING}hello world"),
    ],
)
async def test_it_ends_before_a_stop_text(stop: tuple[str, ...], text: str) -> None:
    request = question("hello world", parameters=Parameters(stop=stop))
    result = await answer(EchoProvider(0), request)
    assert (result.text, result.finish) == (text, "stop")
    assert result.usages[-1].output_tokens == len(text.split())


async def test_a_long_text_is_echoed_in_part() -> None:
    result = await answer(EchoProvider(0), asking("word " * 100_000, limit=10_000))
    assert (result.usages[-1].output_tokens, result.finish) == (WORDS + 500, "stop")
    assert result.usages[-1].input_tokens == 100_000


async def test_the_same_question_has_the_same_answer() -> None:
    assert (await answer(EchoProvider(0), question())).pieces == (await answer(EchoProvider(0), question())).pieces


async def test_the_pace() -> None:
    loop, words = asyncio.get_running_loop(), WORDS + 5
    for _ in range(_TRIES):
        begin = loop.time()
        times = [loop.time() - begin async for _ in EchoProvider(100).stream(asking("a b c d e"))]
        assert times[-1] > words / 100 - 0.1
        if times[-1] < words / 100 + 0.1 and times[0] < 0.06:
            return
    pytest.fail(f"too slow: {times}")


async def test_a_slow_reader_does_not_slow_the_whole() -> None:
    loop, expected = asyncio.get_running_loop(), (WORDS + 5) / 50
    for _ in range(_TRIES):
        begin = loop.time()
        async for read in EchoProvider(50).stream(asking("a b c d e")):
            if isinstance(read[0], Delta) and read[0].text == "This ":
                await asyncio.sleep(0.2)
        took = loop.time() - begin
        assert took > expected - 0.1
        if took < expected + 0.1:
            return
    pytest.fail(f"too slow: {took}")


async def test_unpaced_it_still_lets_others_run() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await answer(EchoProvider(0), asking("word " * 500))
    task.cancel()
    assert turns > 400


async def test_it_ends_with_finish() -> None:
    assert isinstance((await answer(EchoProvider(0))).pieces[-1], Finish)


async def test_its_price_is_nominal_and_said_so() -> None:
    (model,) = await EchoProvider(0).models()
    assert (model.id, model.display_name) == ("echo/echo", "Echo (no AI, for trying things out)")
    cost = price("echo/echo", TokenUsage(1_000_000, 0, 0, 1_000_000, 0))
    assert (cost.nanos, cost.version) == ((model.input_price or 0) + (model.output_price or 0), "nominal")
