"""Headers that no gRPC library sends, but HTTP/2 can carry: refused or cleaned, never a defect of the server's."""

import asyncio
import uuid

import pytest
from google.protobuf.message import Message

from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.auth.cookies import ACCESS, REFRESH
from aiworkspace_server.settings import Settings
from tests.auth.browser import csrf_token
from tests.people import PASSWORD, NewPerson, Person

DATA, HEADERS, SETTINGS = 0, 1, 4  # kinds of frames
END_STREAM, END_HEADERS = 1, 4  # their flags
OK, UNAUTHENTICATED = b"0", b"16"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header as it is, without compression."""
    return bytes([0]) + length(name) + name + length(value) + value


def length(text: bytes) -> bytes:
    """As HPACK has it: up to 126 in one byte, what is beyond in more of seven bits each, the lowest first."""
    if len(text) < 127:
        return bytes([len(text)])
    encoded, rest = [127], len(text) - 127
    while rest > 127:
        encoded.append(128 | rest & 127)
        rest >>= 7
    return bytes([*encoded, rest])


async def status(app: App, method: str, request: Message, *own: tuple[bytes, bytes]) -> bytes:
    """The grpc-status of a call with these headers."""
    reader, writer = await asyncio.open_connection(*app.address.split(":"))
    path = f"/aiworkspace.v1.AuthService/{method}".encode()
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"server")]
    headers += [(b"te", b"trailers"), (b"content-type", b"application/grpc"), *own]
    message = request.SerializeToString()
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b""))
    writer.write(frame(HEADERS, END_HEADERS, 1, b"".join(literal(*header) for header in headers)))
    writer.write(frame(DATA, END_STREAM, 1, bytes(1) + len(message).to_bytes(4, "big") + message))
    try:
        return await _read_status(reader)
    finally:
        writer.close()


async def _read_status(reader: asyncio.StreamReader) -> bytes:
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] == HEADERS and head[4] & END_STREAM:
            length, *rest = payload.partition(b"grpc-status")[2]
            return bytes(rest[:length])


@pytest.mark.parametrize("user_agent", [b"", b"a\0b", b"\xff\xfe", "é".encode(), b"\x1b[31m"], ids=repr)
async def test_whatever_a_client_calls_itself_it_can_sign_in(user_agent: bytes, app: App) -> None:
    email = f"{uuid.uuid4().hex}@example.com"
    request = pb.RegisterRequest(email=email, password=PASSWORD, display_name="Ann")
    assert await status(app, "Register", request, (b"user-agent", user_agent)) == OK
    login = pb.LoginRequest(email=email, password=PASSWORD)
    assert await status(app, "Login", login, (b"user-agent", user_agent)) == OK


@pytest.mark.parametrize("token", [b"\0", b"\xff\xfe", b"\xed\xa0\x80", "é.é.é".encode()], ids=repr)
async def test_a_token_that_is_no_text_is_refused(token: bytes, app: App) -> None:
    assert await status(app, "GetMe", pb.GetMeRequest(), (b"authorization", b"Bearer " + token)) == UNAUTHENTICATED


@pytest.mark.parametrize("value", [b"\0", b"\xff\xfe", b"\xed\xa0\x80", "é".encode(), b""], ids=repr)
async def test_cookies_and_csrf_tokens_that_are_no_text_are_refused(value: bytes, app: App, owner: Person) -> None:
    cookie = b"cookie", ACCESS.encode() + b"=" + owner.tokens.access_token.encode()
    assert await status(app, "GetMe", pb.GetMeRequest(), cookie, (b"x-csrf-token", value)) == UNAUTHENTICATED
    assert await status(app, "GetMe", pb.GetMeRequest(), (b"cookie", ACCESS.encode() + b"=" + value)) == UNAUTHENTICATED
    assert (
        await status(app, "Refresh", pb.RefreshRequest(), (b"cookie", REFRESH.encode() + b"=" + value))
        == UNAUTHENTICATED
    )


async def test_the_bytes_that_a_browser_sends_are_taken(app: App, new_person: NewPerson, settings: Settings) -> None:
    """Else the refusals above would prove nothing: both headers, with another cookie that is no text."""
    person = await new_person()
    cookie = b"cookie", b"a=\xff; " + ACCESS.encode() + b"=" + person.tokens.access_token.encode()
    csrf = csrf_token(person, settings).encode()
    assert await status(app, "GetMe", pb.GetMeRequest(), cookie, (b"x-csrf-token", csrf)) == OK
