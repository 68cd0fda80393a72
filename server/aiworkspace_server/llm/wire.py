"""HTTP code shared by the wire formats: reads a response under the timeouts, until the answer is complete."""

import asyncio
import contextlib
import http.cookiejar
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable

import aiohttp
import httpx2

from .base import Piece, ProviderError
from .clock import Clocks, ContentClock
from .failures import Failures
from .reply import Reply

# How long to wait for the end of a response after its end mark, so that the connection can be reused.
_DRAIN_SECONDS = 0.1
_MOST_ERROR_BYTES = 64 * 1024  # read of the body of an error status
TRANSPORT_ERRORS = (httpx2.HTTPError, httpx2.StreamError, aiohttp.ClientError, OSError)


def no_cookies() -> http.cookiejar.CookieJar:
    """Return a jar that stays empty: cookies set for one organization's key must not be sent with another's."""
    return http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))


def headers(request_id: str, body: bytes) -> dict[str, str]:
    """Return the headers of a request. Its id is in the provider's log, so that bills can be compared."""
    named = {"X-Client-Request-Id": request_id} if request_id else {}
    return {"Content-Type": "application/json", "Content-Length": str(len(body)), **named}


class SentBody(httpx2.AsyncByteStream):
    """The body of a request. It is read when the connection is established, which is when sending starts."""

    def __init__(self, body: bytes, on_sent: Callable[[], None]) -> None:
        self._body = body
        self._on_sent = on_sent

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._on_sent()
        yield self._body


class _ErrorBody(httpx2.AsyncByteStream):
    """The body of an error status, as far as it arrives. A broken body is not an error: the status says enough."""

    def __init__(self, stream: httpx2.AsyncByteStream, seconds: float) -> None:
        self._stream = stream
        self._seconds = seconds

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = _MOST_ERROR_BYTES
        with contextlib.suppress(TimeoutError, *TRANSPORT_ERRORS):
            async with asyncio.timeout(self._seconds):
                async for piece in self._stream:
                    yield piece[:left]
                    left -= len(piece)
                    if left <= 0:
                        return

    async def aclose(self) -> None:
        await self._stream.aclose()


def limit_errors(seconds: float) -> Callable[[httpx2.Response], Awaitable[None]]:
    """Return a hook that limits the body of an error status in size and time."""

    async def limit_error(response: httpx2.Response) -> None:
        if response.is_error and isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _ErrorBody(response.stream, seconds)

    return limit_error


async def read_reply(
    send: Callable[[], Awaitable[httpx2.Response]], reply: Reply, clocks: Clocks
) -> AsyncGenerator[list[Piece], None]:
    """Send the request and yield what each network read adds to `reply`, until the answer is complete.

    Failures are raised after the pieces that came before them, and outside of any `except`, so that no traceback
    leads to the SDK's exceptions, which quote keys.
    """
    clock = ContentClock(clocks)
    said_bytes, hurried = 0, False
    response: httpx2.Response | None = None
    failure: ProviderError | None = None
    try:
        with clock:
            response = await send()
        body = aiter(_body(response))
        while not (reply.ended or failure):
            with clock:
                read = await anext(body, None)
            failure = reply.close(_what(response), clean=True) if read is None else reply.read(read)
            if reply.said_bytes > said_bytes:
                said_bytes = reply.said_bytes
                clock.content()
            if reply.silent and not hurried:  # only once
                hurried = True
                clock.last(clocks.last_seconds)
            if pieces := reply.take():
                yield pieces
        if reply.ended:
            await _drain(body)
    except TRANSPORT_ERRORS as error:
        name = type(error).__name__
        failure = reply.close(name, clean=False) if response else reply.failures.from_connection(error)
    except ProviderError as error:
        failure = None if reply.complete() else error
    finally:
        clock.close()
        reply.log_skipped()
        if response is not None:
            with contextlib.suppress(*TRANSPORT_ERRORS):
                await response.aclose()
    if pieces := reply.take():
        yield pieces
    if failure is not None:
        raise failure


async def read_whole(response: httpx2.Response, most_bytes: int, failures: Failures) -> bytes:
    """Return the whole body. Raises ProviderError if it is larger than `most_bytes`."""
    body = bytearray()
    try:
        async for piece in _body(response):
            body += piece
            if len(body) > most_bytes:
                raise failures.unreadable(ValueError("too large"))
    finally:
        await response.aclose()
    return bytes(body)


def _body(response: httpx2.Response) -> AsyncIterable[bytes]:
    """Return the raw bytes of the response. We request it uncompressed, so no decoding layers are needed."""
    if isinstance(response.stream, httpx2.AsyncByteStream) and "content-encoding" not in response.headers:
        return response.stream
    return response.aiter_bytes()


async def _drain(body: AsyncIterator[bytes]) -> None:
    with contextlib.suppress(TimeoutError, *TRANSPORT_ERRORS):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in body:
                pass


def _what(response: httpx2.Response) -> str:
    """Describe a response that is not an event stream, for instance because the address is wrong."""
    return f"status {response.status_code}, {response.headers.get('content-type', 'no content type')}"
