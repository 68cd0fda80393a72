"""What the wire formats share: an HTTP response read as pieces, under the clocks, up to its end mark."""

import asyncio
import contextlib
import http.cookiejar
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import replace

import aiohttp
import httpx2
import structlog

from .base import (
    Answering,
    Delta,
    DeltaKind,
    ErrorKind,
    Finish,
    FinishReason,
    ModelRequest,
    Piece,
    ProviderError,
    TokenUsage,
)
from .clock import Clocks, ContentClock
from .failures import Failures
from .sse import SseParser
from .tokens import estimate_bytes, estimate_input, is_believable

log = structlog.get_logger()

# How long to wait for the end of a response whose end mark has come, so that its connection can be used again.
_DRAIN_SECONDS = 0.1
# Far beyond what any model may say, and well below what can be stored as one message.
_MOST_SAID_BYTES = 7 * 2**20
_CHANGE_BYTES = 100  # that a change between text and thinking takes besides
TRANSPORT_ERRORS = (httpx2.HTTPError, httpx2.StreamError, aiohttp.ClientError, OSError)


class Reply(ABC):
    """One answer as it comes in. A wire format fills it event by event; `take` hands out what is new."""

    def __init__(self, request: ModelRequest, failures: Failures) -> None:
        self.failures = failures
        self.reason: FinishReason = "other"
        self.answering = False  # the provider's id of the answer has come
        self.ended = False  # the end mark has come
        self.said_bytes = 0  # of text and thinking together, in UTF-8
        self._request = request
        self._sse = SseParser()
        self._pieces: list[Piece] = []
        self._kind: DeltaKind = "text"
        self._changes = 0  # of the kind
        self._texts: list[str] = []  # of the delta that is being gathered
        self._counted: TokenUsage | None = None  # what the provider said last
        self._counted_all = False  # whether it said nothing more after that

    @abstractmethod
    def event(self, data: bytes) -> None:
        """Takes the data of one event. May raise ProviderError, or whatever comes of data that is not as promised."""

    def read(self, piece: bytes) -> ProviderError | None:
        """Takes what one network read gave. Returns a failure, for what came before it still counts."""
        try:
            for data in self._sse.feed(piece):
                self.event(data)
                if self.ended:
                    break
        except ProviderError as failure:
            return failure
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            return self.failures.unreadable(error)
        return None

    def take(self) -> list[Piece]:
        """The pieces since the last time."""
        self._flush()
        pieces, self._pieces = self._pieces, []
        return pieces

    def say(self, kind: DeltaKind, text: str) -> None:
        if kind != self._kind:
            self._flush()
            self._kind = kind
            self._changes += 1
        self.said_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        self._texts.append(text)
        self._counted_all = False
        if self.said_bytes + self._changes * _CHANGE_BYTES > _MOST_SAID_BYTES:
            raise ProviderError(ErrorKind.CUT, f"an answer of more than {_MOST_SAID_BYTES} bytes does not end")

    def answer(self, response_id: str | None) -> None:
        """Reports the provider's id of the answer, unless it has none."""
        if response_id:
            self._add(Answering(str(response_id)))
            self.answering = True

    def use(self, usage: TokenUsage) -> None:
        """Reports usage, unless it cannot be true. Some servers send zeros for "not counted"."""
        if not (usage.plausible and is_believable(self._request, usage)):
            log.error("implausible usage ignored", model=self._request.model, usage=usage)
            self._counted_all = False
        elif usage.input_tokens or usage.output_tokens:
            self._counted, self._counted_all = usage, True
            self._add(usage)

    def end(self) -> None:
        """The end mark has come."""
        if not self._counted_all:
            self._add(self._estimate())
        self._add(Finish(self.reason))
        self.ended = True

    def _estimate(self) -> TokenUsage:
        """Of the whole answer. Some providers count the input at the beginning: that stays."""
        output = min(estimate_bytes(self.said_bytes), self._request.max_output_tokens)
        counted = self._counted
        if counted is None:
            return TokenUsage(estimate_input(self._request), 0, 0, output, 0, estimated=True)
        return replace(counted, output_tokens=max(output, counted.output_tokens), estimated=True)

    def _add(self, piece: Piece) -> None:
        self._flush()
        self._pieces.append(piece)

    def _flush(self) -> None:
        if self._texts:
            self._pieces.append(Delta(self._kind, "".join(self._texts)))
            self._texts.clear()


def no_cookies() -> http.cookiejar.CookieJar:
    """A jar that stays empty: what a provider tells one caller it must not hear from another one, with another key."""
    return http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))


def headers(request_id: str) -> dict[str, str]:
    """Of a request. Its id stands in the provider's log, so that a bill can be compared with ours."""
    named = {"X-Client-Request-Id": request_id} if request_id else {}
    return {"Content-Type": "application/json", **named}


async def read_reply(
    send: Callable[[], Awaitable[httpx2.Response]], reply: Reply, clocks: Clocks
) -> AsyncGenerator[list[Piece], None]:
    """Sends the request and yields what each network read adds to `reply`, until its end mark.

    Failures are raised after the pieces that came before them, and outside of any `except`, so that no traceback
    leads to the SDK's exceptions, which quote keys.
    """
    clock = ContentClock(clocks)
    said_bytes = 0
    response: httpx2.Response | None = None
    failure: ProviderError | None = None
    try:
        with clock:
            response = await send()
        body = aiter(_body(response))
        while not (reply.ended or failure):
            with clock:
                read = await anext(body, None)
            failure = reply.failures.cut(_what(response)) if read is None else reply.read(read)
            if reply.said_bytes > said_bytes:
                said_bytes = reply.said_bytes
                clock.content()
            if pieces := reply.take():
                yield pieces
        if reply.ended:
            await _drain(body)
    except TRANSPORT_ERRORS as error:
        failures = reply.failures
        failure = failures.cut(type(error).__name__) if response else failures.from_connection(error)
    finally:
        clock.close()
        if response is not None:
            with contextlib.suppress(*TRANSPORT_ERRORS):
                await response.aclose()
    if failure is not None:
        raise failure


def _body(response: httpx2.Response) -> AsyncIterable[bytes]:
    """The bytes of the response. Uncompressed, as we ask for it, they need none of the layers that decode it."""
    if isinstance(response.stream, httpx2.AsyncByteStream) and "content-encoding" not in response.headers:
        return response.stream
    return response.aiter_bytes()


async def _drain(body: AsyncIterator[bytes]) -> None:
    with contextlib.suppress(TimeoutError, *TRANSPORT_ERRORS):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in body:
                pass


def _what(response: httpx2.Response) -> str:
    """Not an event stream at all, when the address leads to something else."""
    return f"status {response.status_code}, {response.headers.get('content-type', 'no content type')}"
