"""The wire format of OpenAI's chat completions, which DeepSeek and most local model servers use, too.

The SDK's stream objects would be the largest cost of a token, so we parse the bytes.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import aiohttp
import httpx2
import openai
import orjson

from .base import FinishReason, ModelRequest, Piece, ProviderError, TokenUsage
from .clock import Clocks
from .lenient import count, first, record, string
from .reply import Reply
from .sdk import SdkProvider
from .sources import with_sources
from .turns import clean_system, fold_system
from .wire import TRANSPORT_ERRORS, read_reply, read_whole

# At debug level, which OPENAI_LOG can set, the SDK logs requests with people's messages.
logging.getLogger("openai").setLevel(logging.WARNING)

_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "content_filter": "content_filter"}
_LARGEST_LIST = 2 * 2**20
# The error of Gemma's and older Mistral's chat templates.
_NO_SYSTEM = re.compile(r"system (?:role|message|prompt)s? (?:is |are )?not supported", re.IGNORECASE)
_NOT_FINISHED = ("null", "none")  # sent by some servers in every chunk before the last one
# The provider gave up: DeepSeek ran out of machines, others report a failure. Usage that comes with it counts.
_GAVE_UP = ("insufficient_system_resource", "error", "abort")


@dataclass(frozen=True, slots=True)
class Profile:
    """The differences between providers that use this format."""

    name: str
    base_url: str
    limit_field: Literal["max_completion_tokens", "max_tokens"]
    any_model: bool = False  # also serves models whose chat template has no system prompt
    reports_usage: bool = True  # accepts stream_options.include_usage
    parameters: tuple[str, ...] = ("temperature", "stop", "seed")  # accepted ones; anything else is a bad request
    reasoning: re.Pattern[str] | None = None  # models that take reasoning_effort in place of temperature and stop


OPENAI = Profile(
    "openai", "https://api.openai.com/v1", "max_completion_tokens", reasoning=re.compile(r"o\d|gpt-(?:[5-9]|\d\d)")
)
DEEPSEEK = Profile("deepseek", "https://api.deepseek.com", "max_tokens", parameters=("temperature", "stop"))


class OpenAIProvider(SdkProvider[openai.AsyncOpenAI]):
    """A provider that uses this format."""

    def __init__(self, profile: Profile, *, api_key: str, clocks: Clocks, base_url: str | None = None) -> None:
        super().__init__(
            profile.name,
            api_key=api_key,
            base_url=base_url or profile.base_url,
            path="chat/completions",
            clocks=clocks,
            connect=openai.DefaultAioHttpClient,
        )
        self._profile = profile

    def _new_client(self, api_key: str) -> openai.AsyncOpenAI:
        """Return the SDK's client without retries, which the caller has to count and bill.

        Of the environment only proxies and certificates are used, because the operator sets these for everything.
        """
        connect = self.clocks.connect_seconds
        client = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=self._base_url,
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=connect, pool=connect),
            http_client=self._http,
        )
        client.organization = client.project = client.admin_api_key = None
        # OPENAI_CUSTOM_HEADERS would also be sent to other providers.
        client._custom_headers = {"Accept-Encoding": "identity"}
        return client

    def stream(self, request: ModelRequest) -> AsyncGenerator[list[Piece], None]:
        reply, request = ChatReply(request, self._failures), with_sources(request)
        body = self.encode(request)
        return read_reply(lambda: self._send(body, request), reply, self.clocks)

    async def check_key(self) -> None:
        await self._list()

    async def _list(self) -> bytes:
        """Request the server's list of models. Raises ProviderError, also if it is too large."""
        try:
            async with asyncio.timeout(self.clocks.connect_seconds):
                response = await self._client.get(
                    "/models", cast_to=httpx2.Response, stream=True, stream_cls=openai.AsyncStream[object]
                )
                return await read_whole(cast(httpx2.Response, response), _LARGEST_LIST, self._failures)
        except openai.APIStatusError as error:
            failure = self._failures.from_status(error.status_code, error.response.headers, error.body)
        except (openai.APIConnectionError, *TRANSPORT_ERRORS) as error:  # a TimeoutError is an OSError
            failure = self._failures.from_connection(error)
        raise failure

    async def _send(self, body: bytes, request: ModelRequest) -> aiohttp.ClientResponse:
        """Send the request, and once more without a system prompt to a model that has none."""
        try:
            return await self._post(body, request)
        except ProviderError as error:
            if not (self._profile.any_model and request.system and _NO_SYSTEM.search(error.message)):
                raise
        request = replace(request, system="", turns=fold_system(request.system, request.turns))
        return await self._post(self.encode(request), request)

    def _error(self, body: object) -> object:
        return body.get("error", body) if isinstance(body, dict) else body

    def encode(self, request: ModelRequest) -> bytes:
        """Return the body of a request."""
        prompt = clean_system(request.system)
        system = [{"role": "system", "content": prompt}] if prompt else []
        body: dict[str, object] = {
            "model": request.model,
            "messages": [*system, *({"role": turn.role, "content": turn.text} for turn in request.turns)],
            "stream": True,
            self._profile.limit_field: request.max_output_tokens,
        }
        if self._profile.reports_usage:
            body["stream_options"] = {"include_usage": True}
        return orjson.dumps(body | self._parameters(request))

    def _parameters(self, request: ModelRequest) -> dict[str, object]:
        """Return the requested parameters that the model takes."""
        wanted, reasoning = request.parameters, self._profile.reasoning
        takes = (
            ("seed", "reasoning_effort") if reasoning and reasoning.match(request.model) else self._profile.parameters
        )
        return {name: value for name in takes if (value := getattr(wanted, name)) not in (None, ())}


class ChatReply(Reply):
    """chat.completion.chunk events up to [DONE], or one chat.completion."""

    _refused = False
    _in_deltas = False

    def take_in(self, document: dict[str, Any]) -> None:
        error = _error(document)
        if not error:
            self.answer(document.get("id"))
        self._choice(first(document.get("choices")))
        if usage := record(document.get("usage")):
            self._use(usage)
        if error:
            raise self.failures.from_event(document, begun=self.begun)

    def continues(self, document: dict[str, Any]) -> bool:
        if self.whole or not self.answering or document.get("usage") or document.get("error"):
            return False
        choices = document.get("choices")
        choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
        if not isinstance(choice, dict) or choice.get("finish_reason") or document.get("object") == "error":
            return False
        delta = choice.get("delta")
        if not isinstance(delta, dict) or delta.get("refusal") or delta.get("reasoning"):
            return False
        content, thinking = delta.get("content"), delta.get("reasoning_content")
        if isinstance(content, str) and content and not thinking:
            self._in_deltas = True
            self.say("text", content)
        elif isinstance(thinking, str) and thinking and not content:
            self._in_deltas = True
            self.say("thinking", thinking)
        else:
            return False
        return True

    def end(self) -> None:
        if self._refused and self.reason != "content_filter":
            self.reason = "refused"
        super().end()

    def _choice(self, choice: dict[str, Any]) -> None:
        delta = record(choice.get("delta"))
        if delta:
            self._in_deltas = True
        elif not self._in_deltas:  # some servers send the whole message after its deltas
            delta = record(choice.get("message"))
        # The field's name in DeepSeek and llama.cpp, and in Ollama and newer vLLM.
        self.say_all("thinking", delta.get("reasoning_content") or delta.get("reasoning"))
        content, refusal = delta.get("content"), delta.get("refusal")
        self.say_all("text", content)
        self.say_all("text", refusal)
        self._refused = self._refused or bool(refusal) or _holds_refusal(content)
        reason = string(choice.get("finish_reason"))
        if reason in _GAVE_UP:
            self.gave_up = reason
        elif reason and reason not in _NOT_FINISHED:
            self.reason, self.whole = _FINISH.get(reason, "other"), True

    def _use(self, usage: dict[str, Any]) -> None:
        inputs, outputs = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
        total = count(usage.get("total_tokens"))
        if total is not None and (inputs is None) != (outputs is None):
            inputs, outputs = (total - (outputs or 0), outputs) if inputs is None else (inputs, total - inputs)
        if inputs is None or outputs is None:
            return self.use_part(inputs, outputs)
        prompt, completion = record(usage.get("prompt_tokens_details")), record(usage.get("completion_tokens_details"))
        self.use(
            TokenUsage(
                input_tokens=inputs,
                # DeepSeek's older name.
                cached_input_tokens=count(prompt.get("cached_tokens"))
                or count(usage.get("prompt_cache_hit_tokens"))
                or 0,
                cache_write_tokens=count(prompt.get("cache_write_tokens")) or 0,
                output_tokens=outputs,
                reasoning_tokens=count(completion.get("reasoning_tokens")) or 0,
                input_audio_tokens=count(prompt.get("audio_tokens")) or 0,
                output_audio_tokens=count(completion.get("audio_tokens")) or 0,
            )
        )


def _holds_refusal(content: object) -> bool:
    """Return whether a content is a list of parts with a refusal."""
    return isinstance(content, list) and any(record(part).get("refusal") for part in content)


def _error(document: dict[str, Any]) -> bool:
    """Return whether a document is an error: by its error field, its older name, or because nothing else fits."""
    if document.get("error") or document.get("object") == "error":
        return True
    return not document.keys() & {"choices", "usage", "id"} and bool(document.get("message") or document.get("detail"))
