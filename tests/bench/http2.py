"""A gRPC client that costs next to nothing: as much of HTTP/2 as it takes to send prebuilt calls and count answers.

A client of grpc.aio costs as much as the server that it is to load, so that the two would measure each other. Headers
are sent without compression and those that come back are not read: whether a call went well shows in its messages.
"""

import asyncio
import struct
from typing import Protocol, cast

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_INITIAL_WINDOW = 4
_LARGEST_WINDOW = 2**31 - 1
_RENEWED_BYTES = 1 << 30  # after so many the peer may send as many again
_FRAME = struct.Struct(">BHBBI")
_METHOD_POST, _SCHEME_HTTP = b"\x83", b"\x86"
_AUTHORITY, _PATH, _AUTHORIZATION, _CONTENT_TYPE = 1, 4, 23, 31  # in HPACK's static table


class Reply(Protocol):
    """What is done with the answer to one call."""

    def message(self, data: bytes) -> None: ...

    def end(self) -> None:
        """The call ended, one way or the other."""


def headers(path: str, token: str = "") -> bytes:
    """The header block of a call of `path`, such as "/package.Service/Method"."""
    block = _METHOD_POST + _SCHEME_HTTP + _header(_PATH, path) + _header(_AUTHORITY, "localhost")
    block += b"\x00" + _string("te") + _string("trailers") + _header(_CONTENT_TYPE, "application/grpc")
    return block + _header(_AUTHORIZATION, f"Bearer {token}") if token else block


class Connection(asyncio.Protocol):
    """Calls over one connection. All of them have the same headers."""

    def __init__(self, block: bytes) -> None:
        self.failure = ""  # why the connection is of no use any more
        self._block = block
        self._replies: dict[int, Reply] = {}
        self._partial: dict[int, bytes] = {}  # the beginning of a message that is not complete
        self._stream = 1
        self._rest = b""
        self._received = 0

    def call(self, request: bytes, reply: Reply) -> None:
        """Sends one encoded request message."""
        stream = self._stream
        self._stream += 2
        self._replies[stream] = reply
        message = b"\x00" + struct.pack(">I", len(request)) + request
        self._transport.write(
            _frame(_HEADERS, _END_HEADERS, stream, self._block) + _frame(_DATA, _END_STREAM, stream, message)
        )

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        settings = struct.pack(">HI", _INITIAL_WINDOW, _LARGEST_WINDOW)
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _window(_LARGEST_WINDOW - 65_535))

    def connection_lost(self, error: Exception | None) -> None:
        self.failure = self.failure or f"the server hung up: {error}"
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            reply.end()

    def data_received(self, data: bytes) -> None:
        buffer = self._rest + data if self._rest else data
        position, size = 0, len(buffer)
        while size - position >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(buffer, position)
            end = position + 9 + (high << 16 | low)
            if end > size:
                break
            self._take(kind, flags, stream, buffer[position + 9 : end])
            position = end
        self._rest = buffer[position:]
        self._renew(len(data))

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            self._messages(stream, payload)
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _SETTINGS and not flags & _ACK:
            self._transport.write(_frame(_SETTINGS, _ACK, 0))
        elif kind == _GO_AWAY:
            self.failure = f"the server sent us away: {payload!r}"
        if (kind in (_DATA, _HEADERS) and flags & _END_STREAM) or kind == _RESET:
            self._partial.pop(stream, None)
            self._replies.pop(stream).end()

    def _messages(self, stream: int, payload: bytes) -> None:
        if stream in self._partial:
            payload = self._partial.pop(stream) + payload
        reply = self._replies[stream]
        while len(payload) >= 5 and len(payload) >= (end := 5 + int.from_bytes(payload[1:5])):
            reply.message(payload[5:end])
            payload = payload[end:]
        if payload:
            self._partial[stream] = payload

    def _renew(self, count: int) -> None:
        self._received += count
        if self._received >= _RENEWED_BYTES:
            self._transport.write(_window(self._received))
            self._received = 0


async def connect(address: str, block: bytes) -> Connection:
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(block), host, int(port))
    return connection


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return _FRAME.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def _window(increment: int) -> bytes:
    return _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", increment))


def _header(name: int, value: str) -> bytes:
    """A header that is not added to the table, its name given by number (RFC 7541, 6.2.2)."""
    return (bytes([name]) if name < 15 else bytes([15, name - 15])) + _string(value)


def _string(text: str) -> bytes:
    data = text.encode()
    size = len(data)
    if size < 127:
        return bytes([size]) + data
    size -= 127
    length = bytearray([127])
    while size >= 128:
        length.append(size % 128 | 128)
        size //= 128
    length.append(size)
    return bytes(length) + data
