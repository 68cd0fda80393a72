"""The wire format of Anthropic's messages. As with OpenAI's, we parse the bytes."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator
from typing import Any

import anthropic
import httpx2
import orjson

from .base import FinishReason, ModelRequest, Piece, SourceText, TokenUsage
from .clock import Clocks
from .failures import Failures
from .lenient import count, record, string
from .reply import Reply
from .sdk import SdkProvider
from .sources import CAUTION, add_to_prompt, disarm
from .turns import clean_system
from .wire import TRANSPORT_ERRORS, read_reply

# At debug level, which ANTHROPIC_LOG can set, the SDK logs requests with people's messages.
logging.getLogger("anthropic").setLevel(logging.WARNING)

_BASE_URL = "https://api.anthropic.com"
_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
# Models after 4.6 take no temperature; those named here are too old to take an effort.
_TEMPERED = re.compile(r"claude-[a-z]+-4-[0-6]\b")
_EFFORTLESS = re.compile(r"claude-(?:opus-4-[01]|sonnet-4-[05]|haiku-4-5)\b")
_MOST_TEMPERATURE = 1.0
_LONGEST_TITLE = 500  # characters of a document's
_COUNTS = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")


class AnthropicProvider(SdkProvider[anthropic.AsyncAnthropic]):
    """Anthropic, or a server that speaks its format."""

    def __init__(self, *, api_key: str, clocks: Clocks, base_url: str | None = None) -> None:
        super().__init__(
            "anthropic",
            api_key=api_key,
            base_url=base_url or _BASE_URL,
            path="v1/messages",
            clocks=clocks,
            connect=anthropic.DefaultAioHttpClient,
        )

    def _new_client(self, api_key: str) -> anthropic.AsyncAnthropic:
        """Return the SDK's client without retries, without tracing, and without settings from the environment."""
        connect = self.clocks.connect_seconds
        client = anthropic.AsyncAnthropic(
            api_key=api_key,
            base_url=self._base_url,
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=connect, pool=connect),
            http_client=self._http,
            open_telemetry=False,
        )
        client._custom_headers = {"Accept-Encoding": "identity"}  # instead of ANTHROPIC_CUSTOM_HEADERS
        return client

    def stream(self, request: ModelRequest) -> AsyncGenerator[list[Piece], None]:
        body = encode(request)
        return read_reply(lambda: self._post(body, request), MessageReply(request, self._failures), self.clocks)

    async def check_key(self) -> None:
        try:
            async with asyncio.timeout(self.clocks.connect_seconds):
                await self._client.get("/v1/models", cast_to=bytes)
            return
        except anthropic.APIStatusError as error:
            failure = self._failures.from_status(error.status_code, error.response.headers, error.body)
        except (anthropic.APIConnectionError, *TRANSPORT_ERRORS) as error:  # a TimeoutError is an OSError
            failure = self._failures.from_connection(error)
        raise failure


def encode(request: ModelRequest) -> bytes:
    """Return the body of a request."""
    prompt = add_to_prompt(request.system, CAUTION) if request.sources else clean_system(request.system)
    system = {"system": prompt} if prompt else {}
    body = {
        "model": request.model,
        "messages": _messages(request),
        "max_tokens": request.max_output_tokens,
        "stream": True,
        **system,
        **_parameters(request),
    }
    return orjson.dumps(body)


def _messages(request: ModelRequest) -> list[dict[str, object]]:
    """Return the turns, the last one with the sources in front of it."""
    messages: list[dict[str, object]] = [{"role": turn.role, "content": turn.text} for turn in request.turns]
    if request.sources:
        asked = {"type": "text", "text": request.turns[-1].text}
        messages[-1]["content"] = [*map(_document, request.sources), asked]
    return messages


def _document(source: SourceText) -> dict[str, object]:
    """Return a source as a document whose sentences the model cites."""
    document: dict[str, object] = {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": disarm(source.text)},
        "title": source.name[:_LONGEST_TITLE],
        "citations": {"enabled": True},
    }
    return document | ({"context": source.place} if source.place else {})


def _parameters(request: ModelRequest) -> dict[str, object]:
    """Return the requested parameters that the model takes. None takes a seed."""
    wanted = request.parameters
    stops = [stop for stop in wanted.stop if stop.strip()]  # a blank one is a bad request
    taken: dict[str, object] = {"stop_sequences": stops} if stops else {}
    if wanted.temperature is not None and _TEMPERED.match(request.model):
        taken["temperature"] = min(wanted.temperature, _MOST_TEMPERATURE)
    if wanted.reasoning_effort and not _EFFORTLESS.match(request.model):
        taken["output_config"] = {"effort": wanted.reasoning_effort}
    return taken


class MessageReply(Reply):
    """Events from message_start to message_stop, or one message."""

    def __init__(self, request: ModelRequest, failures: Failures) -> None:
        super().__init__(request, failures)
        self._counts: dict[str, int] = {}
        self._sources = request.sources
        self._cited: list[tuple[int, str]] = []  # for the block of text that is being said

    def take_in(self, document: dict[str, Any]) -> None:
        """Take an event, by its fields rather than by its type, which may be missing."""
        message, delta = record(document.get("message")), record(document.get("delta"))
        if document.get("role") and "content" in document:  # an answer that is not streamed
            message = document
        self.answer(message.get("id"))
        self.say_all("text", message.get("content"))
        for block in (record(document.get("content_block")), delta):
            self._block(block)
        if citation := record(delta.get("citation")):
            self._take_citation(citation)
        elif self._cited and document.get("type") != "content_block_delta":
            self._cite_block()
        for ended in (message, delta):
            if reason := string(ended.get("stop_reason")):
                self.reason, self.whole = _FINISH.get(reason, "other"), True
        self._usage(record(message.get("usage")) | record(document.get("usage")))
        if document.get("type") == "message_stop":
            self.end_mark()
        elif document.get("type") == "error" or document.get("error"):
            raise self.failures.from_event(document, begun=self.begun)

    def continues(self, document: dict[str, Any]) -> bool:
        delta = document.get("delta")
        if self.whole or len(document) != 3 or document.get("type") != "content_block_delta" or "index" not in document:
            return False
        if not isinstance(delta, dict) or len(delta) != 2 or "type" not in delta:
            return False
        text, thinking = delta.get("text"), delta.get("thinking")
        if isinstance(text, str) and text:
            self.say("text", text)
        elif isinstance(thinking, str) and thinking:
            self.say("thinking", thinking)
        else:
            return False
        return True

    def _block(self, block: dict[str, Any]) -> None:
        self.say_all("thinking", block.get("thinking"))
        self.say_all("text", block.get("text"))

    def _take_citation(self, citation: dict[str, Any]) -> None:
        """Keep a citation until its block ends: it supports all of the block, also what comes after it."""
        index, quote = count(citation.get("document_index")), string(citation.get("cited_text"))
        if index is not None and quote:
            number = self._sources[index].number if index < len(self._sources) else 0
            self._cited.append((number, quote))

    def _cite_block(self) -> None:
        for number, quote in self._cited:
            self.cite(number, quote)
        self._cited.clear()

    def _usage(self, usage: dict[str, Any]) -> None:
        """Take usage. Counts are cumulative, and each event has only those that changed."""
        changed = {name: number for name in _COUNTS if (number := count(usage.get(name))) is not None}
        if not changed:
            return
        self._counts |= changed
        counts = self._counts.get
        inputs, outputs = counts("input_tokens"), counts("output_tokens")
        if inputs is None or outputs is None:
            return self.use_part(inputs, outputs)
        cached, written = counts("cache_read_input_tokens", 0), counts("cache_creation_input_tokens", 0)
        details = record(usage.get("output_tokens_details"))
        self.use(
            TokenUsage(
                input_tokens=inputs + cached + written,
                cached_input_tokens=cached,
                cache_write_tokens=written,
                output_tokens=outputs,
                reasoning_tokens=count(details.get("thinking_tokens")) or 0,
            )
        )
