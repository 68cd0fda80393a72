"""What holds for both wire formats, through the real SDKs over real HTTP."""

import asyncio
import socket
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any

import pytest
import uvloop

from aiworkspace_server.llm.base import Answering, Delta, ErrorKind, Finish, Provider, ProviderError, TokenUsage
from aiworkspace_server.llm.clock import Clocks
from tests.standin import Cut, ErrorEvent, HttpError, Script, Stall, Standin
from tests.support.providers import full_queue
from tests.support.waiting import until_true

from .answers import MODEL, Answer, answer, question
from .conftest import HURRIED, PATIENT, anthropic_provider, listening, openai_provider


async def ask(standin: Standin, provider: Provider, script: Script) -> Answer:
    standin.script(MODEL, script)
    return await answer(provider)


async def test_a_whole_answer(standin: Standin, provider: Provider) -> None:
    result = await ask(standin, provider, Script())
    assert (result.text, result.thinking, result.finish, result.error) == ("Hello, world!", "", "stop", None)
    assert result.usages[-1] == TokenUsage(2, 0, 0, 4, 0)


async def test_the_providers_id_comes_once_and_first(standin: Standin, provider: Provider) -> None:
    pieces = (await ask(standin, provider, Script(thinking=("Hm.",)))).pieces
    ids = [piece.response_id for piece in pieces if isinstance(piece, Answering)]
    assert isinstance(pieces[0], Answering)
    assert ids == ["chatcmpl-1" if provider.name == "openai" else "msg_1"]


async def test_a_request_carries_its_id(standin: Standin, provider: Provider) -> None:
    await answer(provider, question(request_id="0190/2"))
    await answer(provider)
    first, second = standin.received
    assert first.headers["x-client-request-id"] == "0190/2"
    assert "x-client-request-id" not in second.headers


async def test_nothing_is_sent_of_parameters_that_were_not_given(standin: Standin, provider: Provider) -> None:
    await answer(provider)
    given = {"temperature", "stop", "stop_sequences", "seed", "reasoning_effort", "output_config"}
    assert not given & standin.received[0].body.keys()


async def test_thinking_is_kept_apart(standin: Standin, provider: Provider) -> None:
    result = await ask(standin, provider, Script(thinking=("Let me ", "see."), tokens=("It ", "is.")))
    assert (result.thinking, result.text) == ("Let me see.", "It is.")
    assert result.usages[-1] == TokenUsage(2, 0, 0, 4, 2)


async def test_cached_and_written_tokens_are_part_of_the_input(standin: Standin, provider: Provider) -> None:
    usage = TokenUsage(1000, 600, 150, 70, 30)
    result = await ask(standin, provider, Script(usage=usage))
    assert result.usages[-1] == usage


async def test_usage_that_nobody_reported_is_estimated(standin: Standin, provider: Provider) -> None:
    result = await ask(standin, provider, Script(usage=None, tokens=("ninety-nine ", "göttliche ", "😀")))
    # "Say hello." is 23 eighths of a token and a turn; the pieces of the answer are 27, 22 and 20 eighths.
    assert result.usages == [TokenUsage(7, 0, 0, 3 + 2 + 2, 0, estimated=True)]
    assert result.finish == "stop"


async def test_what_is_estimated_is_no_more_than_was_allowed(standin: Standin, provider: Provider) -> None:
    standin.script(MODEL, Script(tokens=(" internationalization",) * 20, usage=None))
    result = await answer(provider, question(limit=20))
    assert [(usage.output_tokens, usage.estimated) for usage in result.usages[-1:]] == [(20, True)]


@pytest.mark.parametrize(
    "usage",
    [
        TokenUsage(10, 11, 0, 4, 0),
        TokenUsage(10, 0, 0, 4, 5),
        TokenUsage(0, 0, 0, 0, 0),
        TokenUsage(10**12, 0, 0, 1, 0),
    ],
)
async def test_usage_that_cannot_be_true_is_estimated(
    standin: Standin, openai_wire: Provider, usage: TokenUsage
) -> None:
    result = await ask(standin, openai_wire, Script(usage=usage))
    assert [usage.estimated for usage in result.usages] == [True]


@pytest.mark.parametrize(("reported", "charged"), [((10, 0), (10, 40)), ((0, 40), (7, 40))])
async def test_a_zero_for_what_was_sent_or_said_is_estimated(
    standin: Standin, openai_wire: Provider, reported: tuple[int, int], charged: tuple[int, int]
) -> None:
    usage = TokenUsage(reported[0], 0, 0, reported[1], 0)
    result = await ask(standin, openai_wire, Script(tokens=("word ",) * 40, usage=usage))
    assert result.usages == [TokenUsage(charged[0], 0, 0, charged[1], 0, estimated=True)]


async def test_a_last_count_that_cannot_be_true_is_estimated(standin: Standin, provider: Provider) -> None:
    """Also where the input was counted at the beginning, and one token of the output with it."""
    tokens = ("word ",) * 40
    result = await ask(standin, provider, Script(tokens=tokens, usage=TokenUsage(10, 0, 0, 40, 41)))
    last = result.usages[-1]
    assert (last.estimated, last.output_tokens) == (True, 40)
    assert last.input_tokens in (7, 10)


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("tool_use", "other")],
)
async def test_why_it_ended(standin: Standin, provider: Provider, finish: str, reason: str) -> None:
    assert (await ask(standin, provider, Script(finish=finish))).finish == reason


async def test_an_answer_that_does_not_end_is_cut(standin: Standin, provider: Provider) -> None:
    tokens = ("x" * 2**16,) * 150
    standin.script(MODEL, Script(tokens=tokens))
    result = await answer(provider, question(limit=1000))
    assert result.error
    assert result.error.kind is ErrorKind.CUT
    assert 7 * 2**20 < len(result.text) < 8 * 2**20


async def test_the_limit_goes_out_with_the_request(standin: Standin, provider: Provider) -> None:
    standin.script(MODEL, Script(tokens=("a ", "b ", "c ")))
    result = await answer(provider, question(limit=2))
    assert (result.text, result.finish) == ("a b ", "length")


async def test_usage_comes_before_finish_and_finish_last(standin: Standin, provider: Provider) -> None:
    for piece_bytes in (None, 1, 50):
        pieces = (await ask(standin, provider, Script(piece_bytes=piece_bytes))).pieces
        assert [type(piece) for piece in pieces[-2:]] == [TokenUsage, Finish]
        assert sum(isinstance(piece, Finish) for piece in pieces) == 1


async def test_what_arrives_together_is_one_delta(standin: Standin, provider: Provider) -> None:
    tokens = tuple(f"{number} " for number in range(3000))
    standin.script(MODEL, Script(tokens=tokens, piece_bytes=200_000))
    async with aclosing(provider.stream(question(limit=5000))) as stream:
        reads = [read async for read in stream]
    deltas = [piece for read in reads for piece in read if isinstance(piece, Delta)]
    assert "".join(delta.text for delta in deltas) == "".join(tokens)
    assert len(deltas) < len(tokens) / 10
    for read in reads:
        assert sum(isinstance(piece, Delta) for piece in read) <= 1  # they are all of one kind


async def test_the_first_token_does_not_wait_for_the_second(standin: Standin, provider: Provider) -> None:
    standin.script(MODEL, Script(seconds_per_token=0.1))
    async with aclosing(provider.stream(question())) as stream:
        reads = [read async for read in stream]
    assert sum(isinstance(piece, Delta) for read in reads for piece in read) == 4


async def test_the_connection_serves_the_next_request(standin: Standin, provider: Provider) -> None:
    for _ in range(3):
        assert (await ask(standin, provider, Script())).finish == "stop"
    assert len({received.connection for received in standin.received}) == 1


# Failures


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (HttpError(400), ErrorKind.REJECTED),
        (HttpError(400, type="exceed_context_size_error"), ErrorKind.CONTEXT_TOO_LONG),
        (HttpError(400, "This model's maximum context length is 65536 tokens."), ErrorKind.CONTEXT_TOO_LONG),
        (HttpError(400, "prompt is too long: 250000 tokens > 200000 maximum"), ErrorKind.CONTEXT_TOO_LONG),
        (HttpError(413, type="request_too_large"), ErrorKind.CONTEXT_TOO_LONG),
        (HttpError(401, type="authentication_error"), ErrorKind.MISCONFIGURED),
        (HttpError(402, "Insufficient Balance"), ErrorKind.QUOTA_EXHAUSTED),
        (HttpError(403, type="permission_error"), ErrorKind.FORBIDDEN),
        (HttpError(404, type="not_found_error"), ErrorKind.MODEL_NOT_FOUND),
        (HttpError(404), ErrorKind.MODEL_NOT_FOUND),
        (HttpError(403, type="model_not_found"), ErrorKind.MODEL_NOT_FOUND),
        (HttpError(400, "The requested model 'o9' is not available."), ErrorKind.MODEL_NOT_FOUND),
        (HttpError(429, type="rate_limit_error"), ErrorKind.RATE_LIMITED),
        (HttpError(429, "You exceeded your current quota", type="insufficient_quota"), ErrorKind.QUOTA_EXHAUSTED),
        (HttpError(400, "Your credit balance is too low to access the API."), ErrorKind.QUOTA_EXHAUSTED),
        (HttpError(400, "In 'insufficient_quota, your credit balance is too low': bad word."), ErrorKind.REJECTED),
        (HttpError(500, type="api_error"), ErrorKind.UNAVAILABLE),
        (HttpError(503), ErrorKind.UNAVAILABLE),
        (HttpError(529, type="overloaded_error"), ErrorKind.UNAVAILABLE),
    ],
)
async def test_an_error_status(standin: Standin, provider: Provider, error: HttpError, kind: ErrorKind) -> None:
    result = await ask(standin, provider, Script(fault=error))
    assert result.error is not None
    assert (result.error.kind, result.error.status, result.reads) == (kind, error.status, [])
    assert len(standin.received) == 1, "attempts are the caller's to make"


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ((("retry-after", "7"),), 7, 7),
        ((("retry-after", "0.5"),), 0.5, 0.5),
        ((("retry-after", "9"), ("retry-after-ms", "1500")), 1.5, 1.5),
        ((("retry-after", format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)),), 1800, 3600),
        ((("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"),), 0, 0),
        ((("retry-after", "soon"),), None, None),
        ((("retry-after", "-1"),), None, None),
        ((("retry-after", "inf"),), None, None),
        ((), None, None),
    ],
)
async def test_when_to_try_again(
    standin: Standin,
    openai_wire: Provider,
    headers: tuple[tuple[str, str], ...],
    low: float | None,
    high: float | None,
) -> None:
    result = await ask(standin, openai_wire, Script(fault=HttpError(429, headers=headers)))
    assert result.error is not None
    if low is None or high is None:
        assert result.error.retry_after is None
    else:
        assert low <= (result.error.retry_after or 0) <= high


async def test_a_redirect_is_not_followed(standin: Standin, provider: Provider) -> None:
    error = HttpError(307, headers=(("location", f"{standin.url}/v1/elsewhere"),))
    result = await ask(standin, provider, Script(fault=error))
    assert result.error is not None
    assert (result.error.kind, len(standin.received)) == (ErrorKind.MISCONFIGURED, 1)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ErrorEvent(2), ErrorKind.UNAVAILABLE),
        (ErrorEvent(2, type="overloaded_error"), ErrorKind.UNAVAILABLE),
        (ErrorEvent(2, type="rate_limit_error"), ErrorKind.RATE_LIMITED),
        (ErrorEvent(2, type="invalid_request_error"), ErrorKind.REJECTED),
        (ErrorEvent(2, "prompt is too long", type="invalid_request_error"), ErrorKind.CONTEXT_TOO_LONG),
    ],
)
@pytest.mark.parametrize("piece_bytes", [None, 100_000])
async def test_an_error_in_the_stream_comes_after_what_was_said(
    standin: Standin, provider: Provider, error: ErrorEvent, kind: ErrorKind, piece_bytes: int | None
) -> None:
    result = await ask(standin, provider, Script(fault=error, piece_bytes=piece_bytes))
    assert result.error is not None
    assert (result.text, result.error.kind, result.finish) == ("Hello, ", kind, None)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("after", [0, 2, 3])
async def test_a_stream_without_its_end_mark_was_cut(
    standin: Standin, provider: Provider, after: int, clean: bool
) -> None:
    result = await ask(standin, provider, Script(fault=Cut(after, clean=clean)))
    assert result.error is not None
    assert (result.error.kind, result.finish) == (ErrorKind.CUT, None)
    assert result.text == "".join(Script().tokens[:after])


async def errors_at(url: str, clocks: Clocks = PATIENT) -> list[ProviderError | None]:
    """How a request of each wire format fails there."""
    errors = []
    for provider in (openai_provider(url, clocks), anthropic_provider(url, clocks)):
        errors.append((await answer(provider)).error)
        await provider.aclose()
    return errors


async def kinds_at(url: str, clocks: Clocks = PATIENT) -> list[ErrorKind | None]:
    return [error.kind if error else None for error in await errors_at(url, clocks)]


async def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert await kinds_at(url) == [ErrorKind.UNREACHED] * 2


async def test_a_connection_that_closes_without_an_answer_is_no_timeout() -> None:
    async with listening(lambda reader, writer: writer.close()) as url:
        assert await kinds_at(url) == [ErrorKind.UNAVAILABLE] * 2


@pytest.mark.parametrize(
    ("status", "kind", "retry_after"),
    [(401, ErrorKind.MISCONFIGURED, None), (429, ErrorKind.RATE_LIMITED, 7), (500, ErrorKind.UNAVAILABLE, None)],
)
@pytest.mark.parametrize("hangs", [False, True])
async def test_an_error_status_is_told_and_free_though_its_body_breaks_off(
    status: int, kind: ErrorKind, retry_after: float | None, hangs: bool
) -> None:
    done = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        fields = f"Retry-After: {retry_after}\r\n" if retry_after else ""
        writer.write(f"HTTP/1.1 {status} No\r\n{fields}Content-Length: 100\r\n\r\n{{".encode())
        if hangs:
            await done.wait()
        writer.close()

    async with listening(refuse) as url:
        for error in await errors_at(url, replace(PATIENT, error_seconds=0.2)):
            assert error is not None
            assert (error.kind, error.status, error.free, error.retry_after) == (kind, status, True, retry_after)
        done.set()


async def test_something_that_does_not_speak_http() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    async with listening(talk) as url:
        assert await kinds_at(url) == [ErrorKind.UNAVAILABLE] * 2


# Clocks


async def test_the_clock_for_connecting() -> None:
    patient = Clocks(connect_seconds=0.2, first_content_seconds=300, idle_seconds=300)
    with full_queue() as url:
        async with asyncio.timeout(240):
            assert await kinds_at(url, patient) == [ErrorKind.UNREACHED] * 2


@pytest.mark.parametrize(
    "script",
    [Script(seconds_before=60), Script(fault=Stall(0)), Script(fault=Stall(0, ping_seconds=0.02))],
    ids=["no response", "no event", "pings"],
)
async def test_the_clock_for_the_first_content(standin: Standin, hurried: Provider, script: Script) -> None:
    begin = asyncio.get_running_loop().time()
    result = await ask(standin, hurried, script)
    took = asyncio.get_running_loop().time() - begin
    assert result.error is not None
    assert result.error.kind is ErrorKind.TIMEOUT
    assert HURRIED.first_content_seconds - 0.01 <= took


@pytest.mark.parametrize("ping_seconds", [None, 0.02])
async def test_the_clock_between_content(standin: Standin, hurried: Provider, ping_seconds: float | None) -> None:
    begin = asyncio.get_running_loop().time()
    result = await ask(standin, hurried, Script(fault=Stall(2, ping_seconds)))
    took = asyncio.get_running_loop().time() - begin
    assert result.error is not None
    assert (result.error.kind, result.text) == (ErrorKind.TIMEOUT, "Hello, ")
    assert HURRIED.idle_seconds - 0.01 <= took


async def test_the_clock_between_content_does_not_wait_for_that_of_the_first(standin: Standin) -> None:
    clocks = Clocks(connect_seconds=5, first_content_seconds=60, idle_seconds=0.5)
    for provider in (openai_provider(standin.url, clocks), anthropic_provider(standin.url, clocks)):
        begin = asyncio.get_running_loop().time()
        result = await ask(standin, provider, Script(fault=Stall(2)))
        assert result.error is not None
        assert result.error.kind is ErrorKind.TIMEOUT
        assert asyncio.get_running_loop().time() - begin < 30
        await provider.aclose()


async def test_content_that_keeps_coming_may_take_longer_than_any_clock(standin: Standin, hurried: Provider) -> None:
    script = Script(tokens=("word ",) * 7, seconds_per_token=HURRIED.idle_seconds / 4)
    result = await ask(standin, hurried, script)
    assert (result.finish, result.text) == ("stop", "word " * 7)


async def test_a_slow_reader_is_not_held_against_the_provider(standin: Standin, hurried: Provider) -> None:
    """Each token comes later than the clock allows, but only the last part of that time is spent waiting for it."""
    standin.script(MODEL, Script(tokens=("a ", "b"), seconds_per_token=1.4 * HURRIED.idle_seconds))
    text = ""
    async with aclosing(hurried.stream(question())) as stream:
        async for read in stream:
            text += "".join(piece.text for piece in read if isinstance(piece, Delta))
            await asyncio.sleep(0.9 * HURRIED.idle_seconds)
    assert text == "a b"
    assert isinstance(read[-1], Finish)


async def test_a_timeout_hangs_up_and_leaves_no_cancellation_behind(standin: Standin, hurried: Provider) -> None:
    result = await ask(standin, hurried, Script(fault=Stall(1)))
    task = asyncio.current_task()
    assert result.error is not None
    assert task is not None
    assert task.cancelling() == 0
    assert await hung_up(standin)


# Going away


async def hung_up(standin: Standin) -> bool:
    received = standin.received[-1]
    async with asyncio.timeout(120):
        await received.done.wait()
    return received.hung_up


async def test_closing_the_stream_hangs_up_at_once(standin: Standin, provider: Provider) -> None:
    standin.script(MODEL, Script(tokens=("word ",) * 2000, seconds_per_token=0.1))
    stream = provider.stream(question())
    await anext(stream)
    await stream.aclose()
    assert await hung_up(standin)


def alone(before: set[asyncio.Task[Any]]) -> bool:
    return asyncio.all_tasks() <= before


@pytest.mark.parametrize("script", [Script(seconds_before=60), Script(fault=Stall(1))], ids=["before", "in between"])
def test_cancelling_the_reader_hangs_up_at_once(script: Script) -> None:
    """In a loop of its own, where every task that is left over is the provider's."""

    async def run() -> None:
        async with Standin() as standin:
            for provider in (openai_provider(standin.url), anthropic_provider(standin.url)):
                before = asyncio.all_tasks()
                reading = asyncio.create_task(ask(standin, provider, script))
                await until_true(lambda: standin.received and not standin.received[-1].done.is_set())
                await asyncio.sleep(0.1)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                assert await hung_up(standin)
                await until_true(partial(alone, before))
                await provider.aclose()

    asyncio.run(run())


@pytest.mark.filterwarnings("error")
def test_uvloop() -> None:
    async def run() -> None:
        async with Standin() as standin:
            for provider in (openai_provider(standin.url, HURRIED), anthropic_provider(standin.url, HURRIED)):
                whole, late, cut = [
                    await ask(standin, provider, script)
                    for script in (Script(piece_bytes=9), Script(fault=Stall(1)), Script(fault=Cut(1)))
                ]
                assert (whole.text, whole.finish) == ("Hello, world!", "stop")
                assert late.error is not None
                assert cut.error is not None
                assert (late.error.kind, cut.error.kind) == (ErrorKind.TIMEOUT, ErrorKind.CUT)
                await provider.aclose()
            assert len(asyncio.all_tasks()) <= 2  # this one, and the stand-in's last handler going away

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
