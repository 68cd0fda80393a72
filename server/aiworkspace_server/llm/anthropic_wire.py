"""The wire format of Anthropic's messages. As with OpenAI's, the SDK makes the request and the bytes are read here."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Sequence
from copy import copy
from typing import Any, Self, cast

import anthropic
import httpx2
import orjson

from . import catalog
from .base import FinishReason, ModelInfo, ModelRequest, Piece, TokenUsage
from .clock import Clocks
from .failures import Failures
from .wire import TRANSPORT_ERRORS, Reply, headers, no_cookies, read_reply

# At debug level, which ANTHROPIC_LOG can set, the SDK logs requests with what people said.
logging.getLogger("anthropic").setLevel(logging.WARNING)

_BASE_URL = "https://api.anthropic.com"
_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
# Models up to 4.6 are the last ones with a temperature; those named here are too old to be told an effort.
_TEMPERED = re.compile(r"claude-[a-z]+-4-[0-6]\b")
_EFFORTLESS = re.compile(r"claude-(?:opus-4-[01]|sonnet-4-[05]|haiku-4-5)\b")
_MOST_TEMPERATURE = 1.0
_COUNTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")


class AnthropicProvider:
    """Anthropic, or a server that speaks its format."""

    name = "anthropic"

    def __init__(self, *, api_key: str, clocks: Clocks, base_url: str | None = None) -> None:
        self._clocks = clocks
        self._base_url = base_url or _BASE_URL
        self._http: httpx2.AsyncClient = anthropic.DefaultAioHttpClient(follow_redirects=False, cookies=no_cookies())
        self._use(api_key)

    def with_key(self, api_key: str) -> Self:
        other = copy(self)
        other._use(api_key)
        return other

    def _use(self, api_key: str) -> None:
        self._failures = Failures(self.name, [api_key])
        self._client = _client(api_key, self._base_url, self._clocks, self._http)

    def stream(self, request: ModelRequest) -> AsyncGenerator[list[Piece], None]:
        body = orjson.dumps(_body(request))
        return read_reply(
            lambda: self._send(body, request.request_id), _MessageReply(request, self._failures), self._clocks
        )

    async def models(self) -> Sequence[ModelInfo]:
        return catalog.models(self.name)

    async def has(self, model: str) -> bool:
        return model in catalog.names(self.name)

    def context_tokens(self, model: str) -> int | None:
        return catalog.context_tokens(self.name, model)

    async def check_key(self) -> None:
        try:
            async with asyncio.timeout(self._clocks.connect_seconds):
                await self._client.get("/v1/models", cast_to=bytes)
            return
        except anthropic.APIStatusError as error:
            failure = self._failures.from_status(error.status_code, error.response.headers, error.body)
        except (anthropic.APIConnectionError, *TRANSPORT_ERRORS) as error:  # a TimeoutError is an OSError
            failure = self._failures.from_connection(error)
        raise failure

    async def aclose(self) -> None:
        await self._client.close()

    async def _send(self, body: bytes, request_id: str) -> httpx2.Response:
        """The response, its body unread."""
        try:
            response = await self._client.post(
                "/v1/messages",
                content=body,
                options={"headers": headers(request_id)},
                cast_to=httpx2.Response,
                stream=True,
                stream_cls=anthropic.AsyncStream[object],
            )
            # What comes back is what cast_to says; the overloads know only streams here.
            return cast(httpx2.Response, response)
        except anthropic.APIStatusError as error:
            failure = self._failures.from_status(error.status_code, error.response.headers, error.body)
        except anthropic.APIConnectionError as error:
            failure = self._failures.from_connection(error)
        raise failure


def _client(api_key: str, base_url: str, clocks: Clocks, http: httpx2.AsyncClient) -> anthropic.AsyncAnthropic:
    """The SDK without retries, without tracing of its own, and without what it would read from the environment."""
    connect = clocks.connect_seconds
    client = anthropic.AsyncAnthropic(
        api_key=api_key,
        base_url=base_url,
        max_retries=0,
        timeout=httpx2.Timeout(None, connect=connect, pool=connect),
        http_client=http,
        open_telemetry=False,
    )
    client._custom_headers = {"Accept-Encoding": "identity"}  # instead of ANTHROPIC_CUSTOM_HEADERS
    return client


def _body(request: ModelRequest) -> dict[str, object]:
    system = {"system": request.system} if request.system else {}
    return {
        "model": request.model,
        "messages": [{"role": turn.role, "content": turn.text} for turn in request.turns],
        "max_tokens": request.max_output_tokens,
        "stream": True,
        **system,
        **_parameters(request),
    }


def _parameters(request: ModelRequest) -> dict[str, object]:
    """Those that were given and that the model takes. Nobody can give a seed."""
    wanted = request.parameters
    taken: dict[str, object] = {"stop_sequences": wanted.stop} if wanted.stop else {}
    if wanted.temperature is not None and _TEMPERED.match(request.model):
        taken["temperature"] = min(wanted.temperature, _MOST_TEMPERATURE)
    if wanted.reasoning_effort and not _EFFORTLESS.match(request.model):
        taken["output_config"] = {"effort": wanted.reasoning_effort}
    return taken


class _MessageReply(Reply):
    """Events from message_start to message_stop."""

    def __init__(self, request: ModelRequest, failures: Failures) -> None:
        super().__init__(request, failures)
        self._counts: dict[str, int] = {}

    def event(self, data: bytes) -> None:
        event = orjson.loads(data)
        match event["type"]:
            case "content_block_delta":
                self._block(event["delta"])
            case "content_block_start":
                self._block(event["content_block"])
            case "message_start":
                self.answer(event["message"].get("id"))
                self._usage(event["message"].get("usage"))
            case "message_delta":
                if reason := event["delta"].get("stop_reason"):
                    self.reason = _FINISH.get(reason, "other")
                self._usage(event.get("usage"))
            case "message_stop":
                self.end()
            case "error":
                raise self.failures.from_event(event)

    def _block(self, block: dict[str, Any]) -> None:
        if text := block.get("text"):
            self.say("text", text)
        elif thinking := block.get("thinking"):
            self.say("thinking", thinking)

    def _usage(self, usage: dict[str, Any] | None) -> None:
        """Counts are cumulative, and each event has only those that changed."""
        if not usage:
            return
        self._counts.update((name, int(usage[name])) for name in _COUNTS if usage.get(name) is not None)
        count = self._counts.get
        cached, written = count("cache_read_input_tokens", 0), count("cache_creation_input_tokens", 0)
        details = usage.get("output_tokens_details") or {}
        self.use(
            TokenUsage(
                input_tokens=count("input_tokens", 0) + cached + written,
                cached_input_tokens=cached,
                cache_write_tokens=written,
                output_tokens=count("output_tokens", 0),
                reasoning_tokens=int(details.get("thinking_tokens") or 0),
            )
        )
