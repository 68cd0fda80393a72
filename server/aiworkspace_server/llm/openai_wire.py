"""The wire format of OpenAI's chat completions, which DeepSeek and most servers for local models speak too.

The SDK makes the request; its stream objects would be the largest cost of a token, so the bytes are read here.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import httpx2
import openai
import orjson

from . import catalog
from .base import FinishReason, ModelInfo, ModelRequest, Piece, TokenUsage
from .clock import Clocks
from .failures import Failures
from .wire import TRANSPORT_ERRORS, Reply, headers, no_cookies, read_reply

# At debug level, which OPENAI_LOG can set, the SDK logs requests with what people said.
logging.getLogger("openai").setLevel(logging.WARNING)

_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "content_filter": "content_filter"}


@dataclass(frozen=True, slots=True)
class Profile:
    """What differs between those who speak this format."""

    name: str
    base_url: str
    limit_field: Literal["max_completion_tokens", "max_tokens"]
    reports_usage: bool = True  # takes stream_options.include_usage
    parameters: tuple[str, ...] = ("temperature", "stop", "seed")  # what it takes; anything else is a bad request
    reasoning: re.Pattern[str] | None = None  # models that take reasoning_effort in place of temperature and stop


OPENAI = Profile(
    "openai", "https://api.openai.com/v1", "max_completion_tokens", reasoning=re.compile(r"o\d|gpt-(?:[5-9]|\d\d)")
)
DEEPSEEK = Profile("deepseek", "https://api.deepseek.com", "max_tokens", parameters=("temperature", "stop"))


class OpenAIProvider:
    """One server that speaks this format."""

    def __init__(self, profile: Profile, *, api_key: str, clocks: Clocks, base_url: str | None = None) -> None:
        self.name = profile.name
        self._profile = profile
        self._clocks = clocks
        self._base_url = base_url or profile.base_url
        self._http: httpx2.AsyncClient = openai.DefaultAioHttpClient(follow_redirects=False, cookies=no_cookies())
        self._use(api_key)

    def with_key(self, api_key: str) -> Self:
        other = copy(self)
        other._use(api_key)
        return other

    def _use(self, api_key: str) -> None:
        self._failures = Failures(self.name, [api_key])
        self._client = _client(api_key, self._base_url, self._clocks, self._http)

    def stream(self, request: ModelRequest) -> AsyncGenerator[list[Piece], None]:
        body = orjson.dumps(self._body(request))
        return read_reply(
            lambda: self._send(body, request.request_id), _ChatReply(request, self._failures), self._clocks
        )

    async def models(self) -> Sequence[ModelInfo]:
        return catalog.models(self.name)

    async def has(self, model: str) -> bool:
        return model in catalog.names(self.name)

    def context_tokens(self, model: str) -> int | None:
        return catalog.context_tokens(self.name, model)

    async def check_key(self) -> None:
        await self._list()

    async def aclose(self) -> None:
        await self._client.close()

    async def _list(self) -> bytes:
        """The server's own list of models."""
        try:
            async with asyncio.timeout(self._clocks.connect_seconds):
                return await self._client.get("/models", cast_to=bytes)
        except openai.APIStatusError as error:
            failure = self._failures.from_status(error.status_code, error.response.headers, error.body)
        except (openai.APIConnectionError, *TRANSPORT_ERRORS) as error:  # a TimeoutError is an OSError
            failure = self._failures.from_connection(error)
        raise failure

    async def _send(self, body: bytes, request_id: str) -> httpx2.Response:
        """The response, its body unread. `post` with bytes, since `create` walks every message: 0.2 ms for each."""
        try:
            response = await self._client.post(
                "/chat/completions",
                content=body,
                options={"headers": headers(request_id)},
                cast_to=httpx2.Response,
                stream=True,
                stream_cls=openai.AsyncStream[object],
            )
            # What comes back is what cast_to says; the overloads know only streams here.
            return cast(httpx2.Response, response)
        except openai.APIStatusError as error:
            failure = self._failures.from_status(error.status_code, error.response.headers, error.body)
        except openai.APIConnectionError as error:
            failure = self._failures.from_connection(error)
        raise failure

    def _body(self, request: ModelRequest) -> dict[str, object]:
        system = [{"role": "system", "content": request.system}] if request.system else []
        body: dict[str, object] = {
            "model": request.model,
            "messages": [*system, *({"role": turn.role, "content": turn.text} for turn in request.turns)],
            "stream": True,
            self._profile.limit_field: request.max_output_tokens,
        }
        if self._profile.reports_usage:
            body["stream_options"] = {"include_usage": True}
        return body | self._parameters(request)

    def _parameters(self, request: ModelRequest) -> dict[str, object]:
        """Those that were given and that the model takes."""
        wanted, reasoning = request.parameters, self._profile.reasoning
        takes = (
            ("seed", "reasoning_effort") if reasoning and reasoning.match(request.model) else self._profile.parameters
        )
        return {name: value for name in takes if (value := getattr(wanted, name)) not in (None, ())}


def _client(api_key: str, base_url: str, clocks: Clocks, http: httpx2.AsyncClient) -> openai.AsyncOpenAI:
    """The SDK without retries, which are the caller's to count and to bill.

    Of the environment only proxies and certificates count, as the operator means them for everything.
    """
    connect = clocks.connect_seconds
    client = openai.AsyncOpenAI(
        api_key=api_key,
        base_url=base_url,
        max_retries=0,
        timeout=httpx2.Timeout(None, connect=connect, pool=connect),
        http_client=http,
    )
    client.organization = client.project = client.admin_api_key = None
    # OPENAI_CUSTOM_HEADERS would go to other providers as well.
    client._custom_headers = {"Accept-Encoding": "identity"}
    return client


class _ChatReply(Reply):
    """chat.completion.chunk events up to [DONE]."""

    _interrupted = ""

    def event(self, data: bytes) -> None:
        if data.startswith(b"[DONE]"):
            return self._done()
        chunk = orjson.loads(data)
        if not self.answering:
            self.answer(chunk.get("id"))
        if choices := chunk.get("choices"):
            self._choice(choices[0])
        if usage := chunk.get("usage"):
            self.use(_usage(usage))
        if chunk.get("error") or chunk.get("object") == "error":
            raise self.failures.from_event(chunk)

    def _choice(self, choice: dict[str, Any]) -> None:
        if delta := choice.get("delta"):
            # DeepSeek and llama.cpp name it one way, Ollama and newer vLLM the other.
            if thinking := delta.get("reasoning_content") or delta.get("reasoning"):
                self.say("thinking", thinking)
            if text := delta.get("content"):
                self.say("text", text)
        if reason := choice.get("finish_reason"):
            self.reason = _FINISH.get(reason, "other")
            self._interrupted = reason if reason == "insufficient_system_resource" else ""

    def _done(self) -> None:
        if self._interrupted:  # DeepSeek ran out of machines; the usage before it still counts
            raise self.failures.interrupted(self._interrupted)
        self.end()


def _usage(usage: dict[str, Any]) -> TokenUsage:
    prompt = usage.get("prompt_tokens_details") or {}
    completion = usage.get("completion_tokens_details") or {}
    return TokenUsage(
        input_tokens=int(usage["prompt_tokens"]),
        # DeepSeek's older name.
        cached_input_tokens=int(prompt.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or 0),
        cache_write_tokens=int(prompt.get("cache_write_tokens") or 0),
        output_tokens=int(usage["completion_tokens"]),
        reasoning_tokens=int(completion.get("reasoning_tokens") or 0),
        input_audio_tokens=int(prompt.get("audio_tokens") or 0),
        output_audio_tokens=int(completion.get("audio_tokens") or 0),
    )
