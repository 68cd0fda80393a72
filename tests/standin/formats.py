"""The two wire formats, from the provider's side, as the providers send them."""

import json
from typing import Any, Literal, Protocol

from aiworkspace_server.llm.base import TokenUsage

from .script import ErrorEvent, HttpError

Kind = Literal["text", "thinking"]

_STOP_REASON = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}


class Format(Protocol):
    """Writes the events of one answer."""

    def begin(self, usage: TokenUsage | None) -> list[str]: ...

    def say(self, kind: Kind, text: str) -> list[str]: ...

    def end(self, finish: str, usage: TokenUsage | None) -> list[str]: ...

    def ping(self) -> str: ...

    def error(self, error: ErrorEvent) -> str: ...


class ChatFormat:
    """OpenAI's chat completions. Models named deepseek… use DeepSeek's names of fields."""

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._model = model
        self._include_usage = include_usage
        self._deepseek = model.startswith("deepseek")

    def begin(self, usage: TokenUsage | None) -> list[str]:
        return [self._chunk({"role": "assistant", "content": "", "refusal": None})]

    def say(self, kind: Kind, text: str) -> list[str]:
        return [self._chunk({"content": text} if kind == "text" else {"reasoning_content": text})]

    def end(self, finish: str, usage: TokenUsage | None) -> list[str]:
        events = [self._chunk({}, finish)]
        if usage is not None and self._include_usage:
            events.append(self._event(choices=[], usage=self._usage(usage)))
        return [*events, _event("[DONE]")]

    def ping(self) -> str:
        return ": keep-alive\n\n"

    def error(self, error: ErrorEvent) -> str:
        return _event(
            _dump({"error": {"message": error.message, "type": error.type, "param": None, "code": error.code}})
        )

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._event(choices=[choice], **({"usage": None} if self._include_usage else {}))

    def _event(self, **fields: Any) -> str:
        fixed = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1760000000, "model": self._model}
        return _event(_dump({**fixed, "system_fingerprint": "fp_1", **fields}))

    def _usage(self, usage: TokenUsage) -> dict[str, Any]:
        counts: dict[str, Any] = {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        }
        if self._deepseek:
            hit = usage.cached_input_tokens
            return {**counts, "prompt_cache_hit_tokens": hit, "prompt_cache_miss_tokens": usage.input_tokens - hit}
        details = {"cached_tokens": usage.cached_input_tokens, "cache_write_tokens": usage.cache_write_tokens}
        return {**counts, "prompt_tokens_details": details}


class MessageFormat:
    """Anthropic's messages."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._block = -1
        self._kind: Kind | None = None

    def begin(self, usage: TokenUsage | None) -> list[str]:
        message: dict[str, Any] = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        if usage is not None:
            message["usage"] = _input_counts(usage) | {"output_tokens": min(1, usage.output_tokens)}
        return [self._event("message_start", message=message), self.ping()]

    def say(self, kind: Kind, text: str) -> list[str]:
        delta = {"type": "text_delta", "text": text} if kind == "text" else {"type": "thinking_delta", "thinking": text}
        return [*self._turn_to(kind), self._event("content_block_delta", index=self._block, delta=delta)]

    def cite(self, document: int, text: str) -> list[str]:
        """The words cite with the block that they end."""
        place = {"document_index": document, "document_title": None, "start_char_index": 0, "end_char_index": len(text)}
        citation = {"type": "char_location", "cited_text": text, **place}
        delta = {"type": "citations_delta", "citation": citation}
        return [self._event("content_block_delta", index=self._block, delta=delta), *self._stop_block()]

    def end(self, finish: str, usage: TokenUsage | None) -> list[str]:
        fields: dict[str, Any] = {"delta": {"stop_reason": _STOP_REASON.get(finish, finish), "stop_sequence": None}}
        if usage is not None:
            details = {"output_tokens_details": {"thinking_tokens": usage.reasoning_tokens}}
            fields["usage"] = {"output_tokens": usage.output_tokens, **details}
        return [*self._stop_block(), self._event("message_delta", **fields), self._event("message_stop")]

    def ping(self) -> str:
        return self._event("ping")

    def error(self, error: ErrorEvent) -> str:
        return self._event("error", error={"type": error.type, "message": error.message})

    def _turn_to(self, kind: Kind) -> list[str]:
        if kind == self._kind:
            return []
        events = self._stop_block()
        self._kind, self._block = kind, self._block + 1
        block = (
            {"type": "text", "text": ""} if kind == "text" else {"type": "thinking", "thinking": "", "signature": ""}
        )
        return [*events, self._event("content_block_start", index=self._block, content_block=block)]

    def _stop_block(self) -> list[str]:
        if self._kind is None:
            return []
        signature = {"type": "signature_delta", "signature": "c2ln"}
        signed = [self._event("content_block_delta", index=self._block, delta=signature)]
        events = signed if self._kind == "thinking" else []
        self._kind = None
        return [*events, self._event("content_block_stop", index=self._block)]

    def _event(self, name: str, **fields: Any) -> str:
        return f"event: {name}\n{_event(_dump({'type': name, **fields}))}"


def chat_error(error: HttpError, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": error.type, "param": None, "code": error.code}}


def message_error(error: HttpError, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": error.type, "message": message}, "request_id": "req_1"}


def _input_counts(usage: TokenUsage) -> dict[str, Any]:
    cached, written = usage.cached_input_tokens, usage.cache_write_tokens
    return {
        "input_tokens": usage.input_tokens - cached - written,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": written,
    }


def _event(data: str) -> str:
    return f"data: {data}\n\n"


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
