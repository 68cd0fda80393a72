"""Parses an answer of any shape for the wire formats."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import structlog

from .base import (
    Answering,
    Cited,
    Delta,
    DeltaKind,
    Finish,
    FinishReason,
    ModelRequest,
    Piece,
    ProviderError,
    TokenUsage,
)
from .failures import Failures
from .lenient import Halves, identifier, loads, texts
from .sse import SseParser
from .tokens import count_piece, estimate_input, is_believable, mark_excess

log = structlog.get_logger()

# Far beyond any real answer, and well below what can be stored as one message.
MOST_SAID_BYTES = 7 * 2**20
_LARGEST_DOCUMENT = 2 * MOST_SAID_BYTES
_SNIFFED_BYTES = 4096  # of a body, to detect its format
_END_MARK = b"[DONE]"
_CHANGE_BYTES = 100  # storage overhead of a change between text and thinking


class Reply(ABC):
    """One answer as it arrives. A wire format feeds it document by document; `take` returns the new pieces.

    Data that cannot be understood is skipped, and logged once at the end.
    """

    def __init__(self, request: ModelRequest, failures: Failures) -> None:
        self.failures = failures
        self.reason: FinishReason = "other"
        self.answering = False  # the provider's id of the answer has arrived
        self.whole = False  # a finish reason has arrived: the answer is complete, whatever follows
        self.silent = False  # complete, and the last event had no content: some servers finish in every event
        self.gave_up = ""  # the provider's word for why it gave up
        self.ended = False  # nothing follows
        self.said_bytes = 0  # of text and thinking together, in UTF-8
        self.skipped = 0  # number of things that could not be understood
        self._request = request
        self._sse = SseParser()
        self._head = bytearray()  # the beginning of the body; all of it, unless it is a stream of events
        self._is_stream = False
        self._events = 0
        self._pieces: list[Piece] = []
        self._kind: DeltaKind = "text"
        self._halves: dict[DeltaKind, Halves] = {"text": Halves(), "thinking": Halves()}
        self._changes = 0  # number of changes between text and thinking
        self._texts: list[str] = []  # of the delta that is being gathered
        self._delta_tokens = 0
        self._said_tokens = 0  # of all deltas
        self._counted: TokenUsage | None = None  # the last usage from the provider
        self._counted_all = False  # whether no content followed it

    @abstractmethod
    def take_in(self, document: dict[str, Any]) -> None:
        """Take one JSON object of the provider. May raise ProviderError."""

    @abstractmethod
    def continues(self, document: dict[str, Any]) -> bool:
        """Take an object that only adds to the text or the thinking, as nearly all do. Return False for any other.

        It has to do what `take_in` does, at a fraction of the cost.
        """

    def read(self, piece: bytes) -> ProviderError | None:
        """Take the bytes of one network read. Return a failure instead of raising it: pieces before it still count."""
        try:
            for data in self._sse.feed(self._stream_part(piece)):
                self._events += 1
                self._event(data)
                if self.ended:
                    break
        except ProviderError as failure:
            return None if self.complete() else failure
        except ValueError:
            return None if self.complete() else self.failures.cut("an event is too large")
        return None

    def close(self, what: str, *, clean: bool) -> ProviderError | None:
        """Take the end of the body, which is not clean if the connection broke. Return why the answer is incomplete."""
        try:
            if rest := bytes(self._head) or self._sse.rest():
                self._event(rest)
        except ProviderError as failure:
            return None if self.complete() else failure
        if self.complete():
            return None
        if self.gave_up:
            return self.failures.interrupted(self.gave_up)
        if clean and not (self.begun or self._events):
            return self.failures.no_answer(what)
        return self.failures.cut(what)

    def complete(self) -> bool:
        """End the answer if it is complete although its end mark is missing. Return whether it is complete."""
        if self.whole and not self.ended:
            self.end()
        return self.ended

    @property
    def begun(self) -> bool:
        """Return whether anything of an answer has arrived."""
        return bool(self.answering or self.said_bytes or self._counted or self.whole)

    def take(self) -> list[Piece]:
        """Return the pieces since the last call."""
        self._flush()
        pieces, self._pieces = self._pieces, []
        return pieces

    def say(self, kind: DeltaKind, text: str) -> None:
        text = self._halves[kind].feed(text)
        if not text:
            return
        if kind != self._kind:
            self._flush()
            self._kind = kind
            self._changes += 1
        self.said_bytes += len(text) if text.isascii() else len(text.encode("utf-8"))
        self._texts.append(text)
        self._delta_tokens += count_piece(text)
        self._counted_all = False
        if self.said_bytes + self._changes * _CHANGE_BYTES > MOST_SAID_BYTES:
            raise self.failures.cut(f"more than {MOST_SAID_BYTES} bytes")

    def say_all(self, kind: DeltaKind, content: object) -> None:
        """Say every text of a content of any shape."""
        if isinstance(content, str):
            if content:
                self.say(kind, content)
            return
        said = False
        for each, text in texts(kind, content):
            self.say(each, text)
            said = True
        if content and not said and not isinstance(content, list | dict):
            self.skipped += 1

    def cite(self, number: int, quote: str) -> None:
        """Report that a source supports what was said so far."""
        self._add(Cited(number, quote))

    def answer(self, response_id: object) -> None:
        """Report the provider's id of the answer, unless it has none."""
        if not self.answering and (found := identifier(response_id)):
            self._add(Answering(found))
            self.answering = True

    def use(self, usage: TokenUsage) -> None:
        """Report usage, unless it is impossible. Zeros, which some servers send for "not counted", are estimated."""
        if not (usage.plausible and is_believable(self._request, usage)):
            log.error("implausible_usage_ignored", model=self._request.model, usage=usage)
            self._counted_all = False
        elif usage.input_tokens or usage.output_tokens:
            self._counted, self._counted_all = mark_excess(self._request, self._without_zeros(usage)), True
            self._add(self._counted)

    def _without_zeros(self, usage: TokenUsage) -> TokenUsage:
        """Return the usage, with estimates where it has zeros although something was sent or said."""
        inputs = usage.input_tokens or estimate_input(self._request)
        outputs = usage.output_tokens or self._estimate_output()
        if (inputs, outputs) == (usage.input_tokens, usage.output_tokens):
            return usage
        return replace(usage, input_tokens=inputs, output_tokens=outputs, estimated=True)

    def use_part(self, input_tokens: int | None, output_tokens: int | None) -> None:
        """Report usage without input or output. The missing side is estimated, now and at the end."""
        if input_tokens is None and output_tokens is None:
            return
        outputs = self._estimate_output() if output_tokens is None else output_tokens
        inputs = estimate_input(self._request) if input_tokens is None else input_tokens
        self.use(TokenUsage(inputs, 0, 0, outputs, 0, estimated=True))
        if output_tokens is None:
            self._counted_all = False

    def end(self) -> None:
        """End the answer."""
        counted_all = self._counted_all
        for kind, halves in self._halves.items():
            if rest := halves.end():
                self.say(kind, rest)
        if not counted_all:
            self._add(self._estimate())
        self._add(Finish(self.reason))
        self.ended = True

    def end_mark(self) -> None:
        """Take the provider's end mark. Raises ProviderError if there was no answer before it."""
        if self.gave_up:
            raise self.failures.interrupted(self.gave_up)
        if not (self.whole or self.said_bytes):
            raise self.failures.cut("it ended before it began")
        self.end()

    def _stream_part(self, piece: bytes) -> bytes:
        """Return the bytes that belong to a stream of events. A body of JSON or HTML is kept until its end."""
        if self._is_stream:
            return piece
        self._head += piece
        if len(self._head) > _LARGEST_DOCUMENT:
            raise self.failures.cut(f"more than {_LARGEST_DOCUMENT} bytes")
        begin = bytes(self._head[:_SNIFFED_BYTES]).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not begin or begin.startswith((b"{", b"[", b"<")):
            return b""
        self._is_stream = True
        stream, self._head = bytes(self._head), bytearray()
        return stream

    def _event(self, data: bytes) -> None:
        """Take the data of one event: JSON, several JSON documents on a line each, or the end mark."""
        if data.lstrip().startswith(_END_MARK):
            return self.end_mark()
        try:
            document = loads(data)
        except ValueError:
            lines = data.split(b"\n") if b"\n" in data else []
            self.skipped += not lines
            for line in lines:
                if line.strip() and not self.ended:
                    self._event(line)
            return
        if isinstance(document, dict) and self.continues(document):
            return
        found = [each for each in document if isinstance(each, dict)] if isinstance(document, list) else [document]
        for each in found:
            if isinstance(each, dict) and not self.ended:
                said_bytes = self.said_bytes
                self.take_in(each)
                self.silent = self.whole and self.said_bytes == said_bytes
            else:
                self.skipped += 1

    def log_skipped(self) -> None:
        """Log once per answer that parts of it were skipped, without their content."""
        if self.skipped:
            model, request_id = self._request.model, self._request.request_id
            log.warning("provider_data_skipped", model=model, request_id=request_id, count=self.skipped)

    def _estimate(self) -> TokenUsage:
        """Estimate the usage of the whole answer. A provider's count of the input is kept."""
        output, counted = self._estimate_output(), self._counted
        if counted is None:
            return TokenUsage(estimate_input(self._request), 0, 0, output, 0, estimated=True)
        return replace(counted, output_tokens=max(output, counted.output_tokens), estimated=True)

    def _estimate_output(self) -> int:
        return min(self._said_tokens + self._delta_tokens, self._request.max_output_tokens)

    def _add(self, piece: Piece) -> None:
        self._flush()
        self._pieces.append(piece)

    def _flush(self) -> None:
        if self._texts:
            self._pieces.append(Delta(self._kind, "".join(self._texts), self._delta_tokens))
            self._said_tokens += self._delta_tokens
            self._delta_tokens = 0
            self._texts.clear()
