"""Headers that no gRPC library sends, but HTTP/2 can carry."""

import asyncio
import uuid

import pytest

from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace_server.app import App
from tests.people import PASSWORD, Person

HEADERS, DATA, SETTINGS = 1, 0, 4
END_STREAM, END_HEADERS = 1, 4
OK, UNAUTHENTICATED = b"0", b"16"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header without compression and without a place in the table. At most 126 bytes each."""
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


async def status(app: App, path: str, message: bytes, header: tuple[bytes, bytes]) -> bytes:
    """The grpc-status of a call with this header."""
    reader, writer = await asyncio.open_connection(*app.address.split(":"))
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"server")]
    fields += [(b"te", b"trailers"), (b"content-type", b"application/grpc"), header]
    body = bytes(1) + len(message).to_bytes(4, "big") + message
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
    writer.write(frame(HEADERS, END_HEADERS, 1, b"".join(literal(*field) for field in fields)))
    writer.write(frame(DATA, END_STREAM, 1, body))
    while True:
        size, kind, flags, *_ = memoryview(b"")  # type: ignore[misc]
