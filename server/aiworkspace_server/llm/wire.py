"""HTTP code shared by the wire formats: reads a response under the timeouts, until the answer is complete."""

import asyncio
import contextlib
import http.cookiejar
import json
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


async def read_error(response: aiohttp.ClientResponse, seconds: float) -> object:
    """Return the body of an error status as far as it arrives: JSON, or its text.

    A broken body is not an error: the status says enough.
    """
    body = bytearray()
    try:
        with contextlib.suppress(*TRANSPORT_ERRORS):
            async with asyncio.timeout(seconds):
                while len(body) < _MOST_ERROR_BYTES and (read := await response.content.readany()):
                    body += read
    finally:
        response.release()
    text = _decode(bytes(body[:_MOST_ERROR_BYTES]), response.charset).strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _decode(body: bytes, charset: str | None) -> str:
    try:
        return body.decode(charset or "utf-8", "replace")
    except (LookupError, ValueError):  # no such charset, or one that cannot replace what it does not know
        return body.decode("utf-8", "replace")


async def read_reply(
    send: Callable[[], Awaitable[aiohttp.ClientResponse]], reply: Reply, clocks: Clocks
) -> AsyncGenerator[list[Piece], None]:
    """Send the request and yield what each network read adds to `reply`, until the answer is complete.

    Failures are raised after the pieces that came before them, and outside of any `except`, so that no traceback
    leads to the SDK's exceptions, which quote keys.
    """
    clock = ContentClock(clocks)
    said_bytes, hurried = 0, False
    response: aiohttp.ClientResponse | None = None
    failure: ProviderError | None = None
    try:
        with clock:
            response = await send()
        content = response.content
        while not (reply.ended or failure):
            with clock:
                read = await content.readany()
            failure = reply.read(read) if read else reply.close(_what(response), clean=True)
            if reply.said_bytes > said_bytes:
                said_bytes = reply.said_bytes
                clock.content()
            if reply.silent and not hurried:  # only once
                hurried = True
                clock.last(clocks.last_seconds)
            if pieces := reply.take():
                yield pieces
        if reply.ended and not content.is_eof():
            await _drain(content)
    except TRANSPORT_ERRORS as error:
        name = type(error).__name__
        failure = reply.close(name, clean=False) if response else reply.failures.from_connection(error)
    except ProviderError as error:
        failure = None if reply.complete() else error
    finally:
        clock.close()
        reply.log_skipped()
        if response is not None:
            response.release()  # hangs up, unless it was read to its end
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


async def _drain(content: aiohttp.StreamReader) -> None:
    with contextlib.suppress(*TRANSPORT_ERRORS):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while not content.is_eof():
                await content.readany()


def _what(response: aiohttp.ClientResponse) -> str:
    """Describe a response that is not an event stream, for instance because the address is wrong."""
    return f"status {response.status}, {response.headers.get('content-type', 'no content type')}"
