"""Calls over bare HTTP/2: what no gRPC library sends, but a connection can carry."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7  # kinds of frames
END_STREAM, END_HEADERS = 1, 4  # their flags
_EVERYTHING_AT_ONCE = b"\0\4\x7f\xff\xff\xff"  # the setting that lets the server send 2 GiB of a stream

Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class Answer:
    """`status` is the grpc-status, or None when the call did not get as far as the server's own code.

    `headers` are as they came.
    """

    status: int | None
    headers: bytes = b""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header as it is, without compression."""
    return b"\0" + _length(name) + name + _length(value) + value


def _length(text: bytes) -> bytes:
    """HPACK's integer of seven bits and as many bytes more as it needs."""
    number = len(text)
    if number < 127:
        return bytes([number])
    number, more = number - 127, bytearray([127])
    while number >= 128:
        more.append(number % 128 + 128)
        number //= 128
    return bytes([*more, number])


async def call(address: str, path: str, message: bytes, headers: Iterable[Header] = ()) -> Answer:
    """Makes a unary call, and reads until it ends."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(_call(path, message, headers, b""))
    try:
        async with asyncio.timeout(60):
            return await _read(reader)
    finally:
        writer.close()


@asynccontextmanager
async def unread(address: str, path: str, message: bytes, headers: Iterable[Header] = ()) -> AsyncIterator[None]:
    """A call whose answer nobody reads, not even from the socket, though all of it was asked for."""
    _, writer = await asyncio.open_connection(*address.split(":"))
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(_call(path, message, headers, _EVERYTHING_AT_ONCE))
    try:
        yield
    finally:
        writer.transport.abort()


def _call(path: str, message: bytes, headers: Iterable[Header], settings: bytes) -> bytes:
    always = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"server")]
    always += [(b"te", b"trailers"), (b"content-type", b"application/grpc")]
    block = b"".join(literal(*header) for header in [*always, *headers])
    begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings)
    body = bytes(1) + len(message).to_bytes(4, "big") + message
    return begin + frame(HEADERS, END_HEADERS, 1, block) + frame(DATA, END_STREAM, 1, body)


async def _read(reader: asyncio.StreamReader) -> Answer:
    headers = b""
    while True:
        try:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return Answer(None, headers)
        if head[3] in (RST_STREAM, GOAWAY):
            return Answer(None, headers)
        if head[3] == HEADERS:
            headers += payload
            if head[4] & END_STREAM:
                length, *rest = headers.partition(b"grpc-status")[2]
                refused_below = b"Error parsing '" in headers  # by the gRPC library, which calls it INTERNAL
                return Answer(None if refused_below else int(bytes(rest[:length])), headers)
