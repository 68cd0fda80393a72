import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from aiworkspace_server.llm.base import Answering, ErrorKind, ModelRequest, Parameters, Provider, TokenUsage, Turn
from aiworkspace_server.llm.openai_wire import OPENAI, OpenAIProvider, Profile
from tests.standin import HttpError, Script, Standin

from .answers import EVERYTHING, MODEL, Answer, answer, question
from .conftest import DEEPSEEK_KEY, OPENAI_KEY, PATIENT, deepseek_provider

CONVERSATION = ModelRequest(
    MODEL, "Be brief.", [Turn("user", "Hi"), Turn("assistant", "Yes?"), Turn("user", "Ä 😀")], 64
)


async def test_the_request(standin: Standin, openai_wire: Provider) -> None:
    await answer(openai_wire, CONVERSATION)
    assert standin.received[0].key == OPENAI_KEY
    assert standin.received[0].body == {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "Ä 😀"},
        ],
        "max_completion_tokens": 64,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_no_system_message_when_there_is_no_system_text(standin: Standin, openai_wire: Provider) -> None:
    await answer(openai_wire)
    assert [message["role"] for message in standin.received[0].body["messages"]] == ["user"]


async def test_deepseek(standin: Standin) -> None:
    usage = TokenUsage(900, 640, 0, 30, 12)
    standin.script("deepseek-chat", Script(thinking=("Hm.",), usage=usage))
    provider = deepseek_provider(standin.url)
    result = await answer(provider, question(model="deepseek-chat", limit=99))
    await provider.aclose()
    assert (result.thinking, result.text, result.usages) == ("Hm.", "Hello, world!", [usage])
    assert standin.received[0].body["max_tokens"] == 99
    assert "max_completion_tokens" not in standin.received[0].body
    assert standin.received[0].key == DEEPSEEK_KEY


async def test_usage_is_not_asked_of_those_who_do_not_know_the_option(standin: Standin) -> None:
    profile = Profile("old", standin.openai_url, "max_tokens", reports_usage=False)
    provider = OpenAIProvider(profile, api_key="none", clocks=PATIENT)
    result = await answer(provider)
    await provider.aclose()
    assert "stream_options" not in standin.received[0].body
    assert [usage.estimated for usage in result.usages] == [True]


async def test_a_context_that_is_too_long(standin: Standin, openai_wire: Provider) -> None:
    standin.script(MODEL, Script(fault=HttpError(400, "Too many.", code="context_length_exceeded")))
    error = (await answer(openai_wire)).error
    assert error is not None
    assert error.kind is ErrorKind.CONTEXT_TOO_LONG


@pytest.mark.parametrize(
    ("model", "taken"),
    [
        (MODEL, {"temperature": 1.5, "stop": ["END", "."], "seed": -7}),
        ("gpt-5-mini", {"seed": -7, "reasoning_effort": "high"}),
        ("o3", {"seed": -7, "reasoning_effort": "high"}),
    ],
)
async def test_parameters_that_the_model_takes_are_sent(
    standin: Standin, openai_wire: Provider, model: str, taken: dict[str, Any]
) -> None:
    await answer(openai_wire, question(model=model, parameters=EVERYTHING))
    plain = {"model", "messages", "stream", "stream_options", "max_completion_tokens"}
    assert {name: value for name, value in standin.received[0].body.items() if name not in plain} == taken


async def test_a_temperature_of_zero_is_one(standin: Standin, openai_wire: Provider) -> None:
    await answer(openai_wire, question(parameters=Parameters(temperature=0, seed=0)))
    assert (standin.received[0].body["temperature"], standin.received[0].body["seed"]) == (0, 0)


async def test_deepseek_is_given_no_seed_and_no_effort(standin: Standin) -> None:
    provider = deepseek_provider(standin.url)
    await answer(provider, question(model="deepseek-chat", parameters=EVERYTHING))
    await provider.aclose()
    body = standin.received[0].body
    assert (body["temperature"], body["stop"]) == (1.5, ["END", "."])
    assert not {"seed", "reasoning_effort"} & body.keys()


# Events as other servers send them


class Raw:
    """A server that answers with given bytes."""

    def __init__(self) -> None:
        self.body = b""
        self.headers = {"content-type": "text/event-stream"}
        self.hangs = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if not self.hangs:
            return web.Response(body=self.body, headers=self.headers)
        response = web.StreamResponse(headers=self.headers)
        await response.prepare(request)
        await response.write(self.body)
        await asyncio.sleep(3600)
        return response

    def events(self, *events: dict[str, Any], done: bool = True) -> None:
        self.body = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events)
        self.body += b"data: [DONE]\n\n" if done else b""

    async def answer(self) -> Answer:
        return await answer(self.provider)

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/chat/completions", self.handle)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        self.provider = OpenAIProvider(OPENAI, api_key=OPENAI_KEY, base_url=url, clocks=PATIENT)


@pytest.fixture
async def raw() -> AsyncIterator[Raw]:
    raw = Raw()
    await raw.start()
    yield raw
    await raw.provider.aclose()
    await raw.runner.cleanup()


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


async def test_the_other_name_of_thinking(raw: Raw) -> None:
    raw.events(delta(reasoning="Hm. "), delta(reasoning="So."), delta(content="Yes."), delta("stop"))
    result = await raw.answer()
    assert (result.thinking, result.text, result.finish) == ("Hm. So.", "Yes.", "stop")


async def test_usage_in_every_chunk_replaces_itself(raw: Raw) -> None:
    counts = [{"prompt_tokens": 9, "completion_tokens": count} for count in (1, 2)]
    raw.events(*({**delta(content="a"), "usage": usage} for usage in counts), delta("stop"))
    assert (await raw.answer()).usages[-1] == TokenUsage(9, 0, 0, 2, 0)


async def test_the_fields_that_may_be_missing_or_null(raw: Raw) -> None:
    raw.events(
        {"choices": None},
        {"choices": [{"delta": None}]},
        {"choices": [{}]},
        delta(content=None, reasoning_content=None),
        delta("stop", content="Hi"),
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": None}},
    )
    result = await raw.answer()
    assert (result.text, result.usages, result.finish) == ("Hi", [TokenUsage(3, 0, 0, 1, 0)], "stop")


async def test_audio_tokens_are_counted(raw: Raw) -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 7,
        "prompt_tokens_details": {"audio_tokens": 5},
        "completion_tokens_details": {"audio_tokens": 4},
    }
    raw.events(delta("stop", content="a"), {"choices": [], "usage": usage})
    assert (await raw.answer()).usages == [TokenUsage(9, 0, 0, 7, 0, input_audio_tokens=5, output_audio_tokens=4)]


async def test_the_id_of_the_answer_may_come_late_or_never(raw: Raw) -> None:
    raw.events({"id": "", "choices": []}, {"id": "late", **delta(content="a")}, {"id": "late", **delta("stop")})
    assert [piece for piece in (await raw.answer()).pieces if isinstance(piece, Answering)] == [Answering("late")]
    raw.events(delta("stop", content="a"))
    assert not any(isinstance(piece, Answering) for piece in (await raw.answer()).pieces)


async def test_deepseek_out_of_machines(raw: Raw) -> None:
    usage = {"usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    raw.events(delta(content="Hi"), {**delta("insufficient_system_resource"), **usage})
    result = await raw.answer()
    assert result.error is not None
    assert (result.text, result.error.kind, result.usages) == ("Hi", ErrorKind.UNAVAILABLE, [TokenUsage(3, 0, 0, 1, 0)])


@pytest.mark.parametrize(
    ("body", "understood"),
    [
        (b"data: {\n\n", ""),
        (b"data: [1, 2]\n\n", ""),
        (b'data: {"choices": [7]}\n\n', ""),
        (b'data: {"choices": [{"delta": {"content": 7}}]}\n\n', ""),
        (b'data: {"choices": [{"delta": {"content": ["x"]}}]}\n\n', "x"),
        (b'data: {"choices": [], "usage": {"prompt_tokens": "x", "completion_tokens": "y"}}\n\n', ""),
        (b"data: \xff\xfe\n\n", ""),
        (b"data: " + b"[" * 100_000 + b"\n\n", ""),
        (b'data: {"choices": [{"delta": {"content": "x"}}], "created": ' + b"9" * 6000 + b"}\n\n", "x"),
    ],
)
async def test_what_cannot_be_understood_is_skipped(raw: Raw, body: bytes, understood: str) -> None:
    raw.events(delta(content="before "), done=False)
    raw.body += body
    before = raw.body
    raw.events(delta(content=" after"), delta("stop"))
    raw.body = before + raw.body
    result = await raw.answer()
    assert (result.text, result.finish, result.error) == (f"before {understood} after", "stop", None)
    assert [usage.estimated for usage in result.usages] == [True]


async def test_an_answer_in_one_event_is_as_long_as_any_other(raw: Raw) -> None:
    raw.events(delta("stop", content="word " * 1_000_000))
    result = await raw.answer()
    assert (result.text, result.finish, result.error) == ("word " * 1_000_000, "stop", None)


async def test_a_message_after_its_deltas_is_not_said_again(raw: Raw) -> None:
    whole = {"index": 0, "delta": {}, "message": {"role": "assistant", "content": "Hi you"}, "finish_reason": "stop"}
    raw.events(delta(content="Hi "), delta(content="you"), {"choices": [whole]})
    assert (await raw.answer()).text == "Hi you"
    raw.events({"choices": [whole]})
    assert (await raw.answer()).text == "Hi you"


async def test_an_end_mark_after_more_blanks_is_one(raw: Raw) -> None:
    raw.events(delta(content="Hi"), done=False)
    raw.body += b"data:  [DONE]\n\n"
    result = await raw.answer()
    assert (result.text, result.finish, result.error) == ("Hi", "other", None)


@pytest.mark.parametrize("reason", ["error", "abort"])
@pytest.mark.parametrize("error", [{}, {"error": {"code": "rate_limit_exceeded", "message": "slow down"}}])
async def test_an_answer_that_ends_for_a_failure_is_not_whole(raw: Raw, error: dict[str, Any], reason: str) -> None:
    """As gateways end it: with the error beside the end of the choice, or without."""
    raw.events(delta(content="Half"), {**delta(reason), **error})
    result = await raw.answer()
    assert result.error is not None
    assert (result.text, result.finish) == ("Half", None)
    assert result.error.kind is (ErrorKind.RATE_LIMITED if error else ErrorKind.UNAVAILABLE)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("content_filter", ErrorKind.REJECTED),
        ("content_policy_violation", ErrorKind.REJECTED),
        ("invalid_prompt", ErrorKind.REJECTED),
        ("account_deactivated", ErrorKind.MISCONFIGURED),
        ("unsupported_country_region_territory", ErrorKind.FORBIDDEN),
        ("quota_exceeded", ErrorKind.QUOTA_EXHAUSTED),
        ("RESOURCE_EXHAUSTED", ErrorKind.RATE_LIMITED),
        ("timeout_error", ErrorKind.UNAVAILABLE),
    ],
)
async def test_an_error_that_only_a_name_tells_is_what_the_name_says(raw: Raw, name: str, kind: ErrorKind) -> None:
    for field in ("code", "type"):
        raw.events({"error": {field: name, "message": "no"}})
        error = (await raw.answer()).error
        assert error is not None
        assert error.kind is kind


async def test_an_event_that_does_not_end_cuts_the_answer(raw: Raw) -> None:
    raw.events(delta(content="before"), done=False)
    raw.body += b"data: " + b"x" * 15_000_000
    result = await raw.answer()
    assert result.error is not None
    assert (result.text, result.error.kind, result.error.free) == ("before", ErrorKind.CUT, False)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"<html>Sign in</html>", "text/html"), (b"", "text/event-stream"), (b"{}", "text/plain")],
)
async def test_a_page_or_nothing_instead_of_a_stream(raw: Raw, body: bytes, content_type: str) -> None:
    raw.body, raw.headers = body, {"content-type": content_type}
    result = await raw.answer()
    assert result.error is not None
    assert (result.error.kind, result.error.free) == (ErrorKind.UNAVAILABLE, True)
    assert content_type in result.error.message


async def test_a_whole_completion_instead_of_a_stream(raw: Raw) -> None:
    raw.headers = {"content-type": "application/json"}
    message = {"role": "assistant", "content": "Hi", "reasoning_content": "Hm"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    body = {"id": "one", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
    raw.body = json.dumps(body, indent=1).encode()
    result = await raw.answer()
    assert (result.text, result.thinking, result.finish) == ("Hi", "Hm", "stop")
    assert result.usages == [TokenUsage(3, 0, 0, 2, 0)]


QUOTA = {"error": {"message": "You exceeded your current quota", "type": "insufficient_quota"}}


@pytest.mark.parametrize("form", ["body", "event", "named event", "list"])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (QUOTA, ErrorKind.QUOTA_EXHAUSTED),
        ({"error": {"message": "bad", "type": "invalid_request_error"}}, ErrorKind.REJECTED),
        ({"error": {"message": "no", "code": 404}}, ErrorKind.MODEL_NOT_FOUND),
        ({"error": {"message": "slow down", "code": "429"}}, ErrorKind.RATE_LIMITED),
        ({"error": {"message": "no", "type": "AuthenticationError"}}, ErrorKind.MISCONFIGURED),
        ({"error": "model 'x' not found"}, ErrorKind.MODEL_NOT_FOUND),
        ({"detail": "Internal"}, ErrorKind.UNAVAILABLE),
        ({"object": "error", "message": "bad", "type": "BadRequestError", "code": 400}, ErrorKind.REJECTED),
    ],
)
async def test_an_error_in_place_of_an_answer_is_told_as_what_it_is(
    raw: Raw, error: dict[str, Any], kind: ErrorKind, form: str
) -> None:
    text = json.dumps(error).encode()
    raw.body = {
        "body": text,
        "list": b"[" + text + b"]",
        "event": b"data: " + text + b"\n\ndata: [DONE]\n\n",
        "named event": b"event: error\ndata: " + json.dumps(error.get("error", error)).encode() + b"\n\n",
    }[form]
    result = await raw.answer()
    assert result.error is not None
    assert (result.error.kind, result.error.free, result.error.status) == (kind, True, 200)


async def test_an_error_after_the_answer_began_is_charged(raw: Raw) -> None:
    raw.events({"id": "one", **delta(role="assistant")}, QUOTA)
    error = (await raw.answer()).error
    assert error is not None
    assert (error.kind, error.free) == (ErrorKind.QUOTA_EXHAUSTED, False)


async def test_a_refusal_is_text_and_says_so(raw: Raw) -> None:
    refused = [delta(role="assistant", content=None, refusal=""), delta(refusal="I "), delta(refusal="can't.")]
    raw.events(*refused, delta("stop"))
    result = await raw.answer()
    assert (result.text, result.finish) == ("I can't.", "refused")
    raw.events(*refused, delta("content_filter"))
    assert (await raw.answer()).finish == "content_filter"
    raw.events(delta("stop", content=[{"type": "refusal", "refusal": "I can't."}]))
    result = await raw.answer()
    assert (result.text, result.finish) == ("I can't.", "refused")


async def test_an_answer_that_is_whole_does_not_wait_for_an_end_that_never_comes(raw: Raw) -> None:
    raw.provider.clocks = replace(PATIENT, last_seconds=0.2)
    raw.hangs = True
    raw.events(delta(content="Whole."), delta("stop"), done=False)
    async with asyncio.timeout(50):  # less than the clock between contents
        result = await raw.answer()
    assert (result.text, result.finish, result.error) == ("Whole.", "stop", None)
    assert [usage.estimated for usage in result.usages] == [True]


async def test_an_error_object_of_older_servers(raw: Raw) -> None:
    raw.events({"object": "error", "message": "CUDA out of memory", "type": "InternalServerError", "code": 500})
    result = await raw.answer()
    assert result.error is not None
    assert result.error.kind is ErrorKind.UNAVAILABLE


async def test_a_compressed_stream_is_understood_though_not_asked_for(raw: Raw) -> None:
    raw.events(delta(content="Hi"), delta("stop"))
    plain = raw.handle

    async def compressed(request: web.Request) -> web.StreamResponse:
        assert request.headers["accept-encoding"] == "identity"
        response = await plain(request)
        response.enable_compression(web.ContentCoding.gzip)
        return response

    app = web.Application()
    app.router.add_post("/chat/completions", compressed)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    provider = OpenAIProvider(OPENAI, api_key=OPENAI_KEY, base_url=url, clocks=PATIENT)
    assert (await answer(provider)).text == "Hi"
    await provider.aclose()
    await runner.cleanup()
