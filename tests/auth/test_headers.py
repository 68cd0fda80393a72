"""Headers that no gRPC library sends, but HTTP/2 can carry: refused or cleaned, never a defect of the server's."""

import uuid
from typing import Any

import pytest

from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace_server.app import App
from tests import corpora
from tests.support import http2
from tests.support.people import PASSWORD, Person

OK, UNKNOWN, INTERNAL, UNAUTHENTICATED = 0, 2, 13, 16
SERVICE = "/aiworkspace.v1.AuthService"
OUTCOMES: dict[str, set[int | None]] = {
    "OK": {OK},
    "UNAUTHENTICATED": {UNAUTHENTICATED},
    "REFUSED": {UNAUTHENTICATED, None},
    "ANY": {None, *range(17)} - {UNKNOWN, INTERNAL},
}
CALLS = corpora.read("headers", "calls")


@pytest.mark.parametrize("user_agent", [b"", b"a\0b", b"\xff\xfe", "é".encode(), b"\x1b[31m"], ids=repr)
async def test_whatever_a_client_calls_itself_it_can_sign_in(user_agent: bytes, app: App) -> None:
    email = f"{uuid.uuid4().hex}@example.com"
    headers = [(b"user-agent", user_agent)]
    register = pb.RegisterRequest(email=email, password=PASSWORD, display_name="Ann").SerializeToString()
    assert (await http2.call(app.address, f"{SERVICE}/Register", register, headers)).status == OK
    login = pb.LoginRequest(email=email, password=PASSWORD).SerializeToString()
    assert (await http2.call(app.address, f"{SERVICE}/Login", login, headers)).status == OK


@pytest.mark.parametrize("case", CALLS, ids=[case["name"] for case in CALLS])
async def test_hostile_headers_are_refused_or_cleaned(case: dict[str, Any], owner: Person, app: App) -> None:
    headers = [_header(name, value, owner) for name, value in case["headers"]]
    if any("{x100}" in value for _, value in case["headers"]):
        headers += headers[-1:] * 99
    answer = await http2.call(app.address, f"{SERVICE}/GetMe", b"", headers)
    assert answer.status in OUTCOMES[case["outcome"]]


def _header(name: str, value: str, person: Person) -> http2.Header:
    values = {"token": person.tokens.access_token, "user": person.user_id, "session": person.tokens.session_id}
    values |= {"1000": "x" * 1000, "1000;": ";" * 1000, "12000": "x" * 12_000, "x100": "x"}
    return name.encode(), corpora.fill(value, values).encode("latin-1")


async def test_no_odd_request_id_is_sent_back(owner: Person, app: App) -> None:
    token = (b"authorization", f"Bearer {owner.tokens.access_token}".encode())
    for given in (b"\xff\xfe", b"x" * 65, b""):
        answer = await http2.call(app.address, f"{SERVICE}/GetMe", b"", [token, (b"x-request-id", given)])
        assert not given or given not in answer.headers
    answer = await http2.call(app.address, f"{SERVICE}/GetMe", b"", [token, (b"x-request-id", b"mine-1")])
    assert b"mine-1" in answer.headers
