"""The wire format of Anthropic's messages. As with OpenAI's, the SDK makes the request and the bytes are read here."""

import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import anthropic
import httpx2
import orjson

from . import catalog
from .base import FinishReason, ModelInfo, ModelRequest, Piece, TokenUsage
from .clock import Clocks
from .failures import Failures
from .wire import Reply, read_reply

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
_COUNTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")


class AnthropicProvider:
    """Anthropic, or a server that speaks its format."""

    name = "anthropic"

    def __init__(self, *, api_key: str, clocks: Clocks, base_url: str | None = None) -> None:
        self._clocks = clocks
        self._failures = Failures(self.name, [api_key])
        self._client = _client(api_key, base_url or _BASE_URL, clocks)

    def stream(self, request: ModelRequest) -> AsyncGenerator[list[Piece], None]:
        body = orjson.dumps(_body(request))
        return read_reply(lambda: self._send(body), _MessageReply(request, self._failures), self._clocks)

    async def models(self) -> Sequence[ModelInfo]:
        return catalog.models(self.name)

    async def has(self, model: str) -> bool:
        return model in catalog.names(self.name)

    async def aclose(self) -> None:
        await self._client.close()

    async def _send(self, body: bytes) -> httpx2.Response:
        """The response, its body unread."""
        try:
            response = await self._client.post(
                "/v1/messages",
                content=body,
                options={"headers": {"Content-Type": "application/json"}},
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


def _client(api_key: str, base_url: str, clocks: Clocks) -> anthropic.AsyncAnthropic:
    """The SDK without retries, without tracing of its own, and without what it would read from the environment."""
    connect = clocks.connect_seconds
    client = anthropic.AsyncAnthropic(
        api_key=api_key,
        base_url=base_url,
        max_retries=0,
        timeout=httpx2.Timeout(None, connect=connect, pool=connect),
        http_client=anthropic.DefaultAioHttpClient(follow_redirects=False),
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
    }


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
