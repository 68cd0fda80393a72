"""The form of keys: what cannot be one is refused before any database is asked."""

import json
from pathlib import Path

import grpc
import pytest

from aiworkspace.v1 import auth_pb2
from aiworkspace_server.app import App
from aiworkspace_server.auth.api_keys import is_key, new_key, visible_part
from tests.support import http2
from tests.support.outcomes import UNAUTHENTICATED, outcome, refusal
from tests.support.service_accounts import NewBackend
from tests.support.statements import statements

_CORPUS = json.loads((Path(__file__).parents[1] / "corpora/api_keys.json").read_text())
MALFORMED = [pytest.param(each["key"] * each["times"], id=each["why"]) for each in _CORPUS["malformed"]]
GOOD: str = _CORPUS["good"]  # but nobody's


LOOK_UP = "find_key"


@pytest.mark.parametrize("key", MALFORMED)
async def test_what_cannot_be_a_key_is_refused_without_a_look_up(key: str, app: App, new_backend: NewBackend) -> None:
    assert not is_key(key)
    with statements(app, LOOK_UP) as made:
        if key.isascii() and key.isprintable():
            refused = await refusal(new_backend(key).auth.GetMe(auth_pb2.GetMeRequest()))
            assert refused == await refusal(new_backend("").auth.GetMe(auth_pb2.GetMeRequest()))
            assert refused is not None
        else:  # which no gRPC library sends
            header = b"authorization", b"Bearer " + key.encode()[:110]
            answer = await http2.call(app.address, "/aiworkspace.v1.AuthService/GetMe", b"", [header])
            assert answer.status == grpc.StatusCode.UNAUTHENTICATED.value[0]
    assert made == []


async def test_what_could_be_one_is_looked_up_and_refused_alike(app: App, new_backend: NewBackend) -> None:
    """Else the absence of look-ups would prove nothing."""
    assert is_key(GOOD)
    backend = new_backend(GOOD)
    with statements(app, LOOK_UP) as made:
        refused = await refusal(backend.auth.GetMe(auth_pb2.GetMeRequest()))
    assert len(made) == 1
    assert refused == await refusal(new_backend("").auth.GetMe(auth_pb2.GetMeRequest()))
    assert await outcome(backend.auth.GetMe(auth_pb2.GetMeRequest())) == UNAUTHENTICATED


async def test_a_key_counts_only_as_the_one_bearer_token(app: App, new_backend: NewBackend) -> None:
    nobody = new_backend("")
    headers = [
        [("authorization", GOOD)],
        [("authorization", f"Basic {GOOD}")],
        [("authorization", f"Bearer {GOOD}"), ("authorization", f"Bearer {GOOD}")],
        [("x-api-key", GOOD)],
    ]
    with statements(app, LOOK_UP) as made:
        for metadata in headers:
            assert await outcome(nobody.auth.GetMe(auth_pb2.GetMeRequest(), metadata=metadata)) == UNAUTHENTICATED
    assert made == []


def test_keys_have_the_form_and_differ() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(map(is_key, keys))
    assert {len(key) for key in keys} == {len("aiws_") + 49}
    assert visible_part(GOOD) == GOOD[:13]
    assert {digit for key in keys for digit in key[5:]} == set(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    )


@pytest.mark.parametrize("place", range(5, 54))
def test_one_wrong_digit_is_noticed_wherever_it_is(place: int) -> None:
    wrong = "0" if GOOD[place] != "0" else "1"
    assert not is_key(GOOD[:place] + wrong + GOOD[place + 1 :])
