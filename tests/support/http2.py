"""Calls over bare HTTP/2: what no gRPC library sends, but a connection can carry."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 7, 8  # kinds of frames
END_STREAM, END_HEADERS = 1, 4  # their flags
_EVERYTHING_AT_ONCE = b"\0\4\x7f\xff\xff\xff"  # the setting that lets the server send 2 GiB of a stream
NOTHING_AT_ALL = b"\0\4\0\0\0\0"  # the one that lets it send no byte of an answer
_WINDOW = 65_535
_FRAME_BYTES = 16_384

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


async def call(address: str, path: str | bytes, message: bytes, headers: Iterable[Header] = ()) -> Answer:
    """Makes a unary call, and reads until it ends."""
    return await call_with_body(address, path, encoded(message), headers)


async def call_with_body(
    address: str, path: str | bytes, body: bytes, headers: Iterable[Header] = (), *, ended: bool = True
) -> Answer:
    """The same with any bytes where a message should be, perhaps not the last ones of the call."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(_call(path, body, headers, b"", ended))
    try:
        async with asyncio.timeout(60):
            return await _read(reader)
    finally:
        writer.close()


@asynccontextmanager
async def begun(
    address: str, path: str, size: int, headers: Iterable[Header] = ()
) -> AsyncIterator[asyncio.Task[Answer]]:
    """A call whose message has all but the last of so many bytes, sent as fast as the server takes them.

    The task ends when the server ends the call.
    """
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(_call(path, b"\0" + size.to_bytes(4, "big"), headers, b"", ended=False))
    task = asyncio.create_task(_send_slowly(reader, writer, size - 1))
    try:
        yield task
    finally:
        task.cancel()
        writer.transport.abort()


async def _send_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: int) -> Answer:
    """Sends so many bytes of a message as the windows open, then nothing, and reads until the call ends.

    The server's settings leave the window of a stream as it is.
    """
    windows, headers = {0: _WINDOW - 5, 1: _WINDOW - 5}, b""
    while True:
        while left and (room := min(left, *windows.values(), _FRAME_BYTES)) > 0:
            writer.write(frame(DATA, 0, 1, bytes(room)))
            left, windows = left - room, {stream: window - room for stream, window in windows.items()}
        kind, flags, stream, payload = await _next_frame(reader)
        if kind == WINDOW_UPDATE:
            windows[stream] += int.from_bytes(payload, "big")
        elif kind == HEADERS:
            headers += payload
            if flags & END_STREAM:
                return Answer(_status(headers), headers)
        elif kind in (RST_STREAM, GOAWAY):
            return Answer(None, headers)


def encoded(message: bytes) -> bytes:
    """The message as it stands in the body of a call."""
    return bytes(1) + len(message).to_bytes(4, "big") + message


@asynccontextmanager
async def unread(
    address: str, path: str, message: bytes, headers: Iterable[Header] = (), settings: bytes = _EVERYTHING_AT_ONCE
) -> AsyncIterator[None]:
    """A call whose answer nobody reads, not even from the socket, though all of it was asked for."""
    _, writer = await asyncio.open_connection(*address.split(":"))
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(_call(path, encoded(message), headers, settings))
    try:
        yield
    finally:
        writer.transport.abort()


def _call(path: str | bytes, body: bytes, headers: Iterable[Header], settings: bytes, ended: bool = True) -> bytes:
    always = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode() if isinstance(path, str) else path),
        (b":authority", b"server"),
    ]
    always += [(b"te", b"trailers"), (b"content-type", b"application/grpc")]
    block = b"".join(literal(*header) for header in [*always, *headers])
    begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings)
    if ended and not body:
        return begin + frame(HEADERS, END_HEADERS | END_STREAM, 1, block)
    return begin + frame(HEADERS, END_HEADERS, 1, block) + frame(DATA, END_STREAM * ended, 1, body)


async def _read(reader: asyncio.StreamReader) -> Answer:
    headers = b""
    while True:
        try:
            kind, flags, _, payload = await _next_frame(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            return Answer(None, headers)
        if kind in (RST_STREAM, GOAWAY):
            return Answer(None, headers)
        if kind == HEADERS:
            headers += payload
            if flags & END_STREAM:
                return Answer(_status(headers), headers)


async def _next_frame(reader: asyncio.StreamReader) -> tuple[int, int, int, bytes]:
    """Kind, flags, stream and payload."""
    head = await reader.readexactly(9)
    payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
    return head[3], head[4], int.from_bytes(head[5:], "big"), payload


def _status(headers: bytes) -> int | None:
    length, *rest = headers.partition(b"grpc-status")[2]
    refused_below = b"Error parsing '" in headers  # by the gRPC library, which calls it INTERNAL
    return None if refused_below else int(bytes(rest[:length]))
