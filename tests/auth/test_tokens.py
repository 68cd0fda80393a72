"""Tokens that are not ours, not for this, or no longer good: all refused alike, as access and as refresh tokens."""

from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.auth import principal
from aiworkspace_server.auth.keys import read_keys
from aiworkspace_server.settings import Settings
from tests.auth.forging import CASES, Kind, encode
from tests.support.outcomes import OK, UNAUTHENTICATED, Refusal, outcome, refusal
from tests.support.people import NewPerson, Person


@pytest.fixture(scope="session")
async def kinds(
    new_person: NewPerson, settings: Settings, keyed: App, keyed_settings: Settings
) -> AsyncIterator[dict[str, Kind]]:
    person, keyed_person = await new_person(), await Person(keyed.address).register()
    access, refresh = _kinds(person, settings)
    keyed_access, _ = _kinds(keyed_person, keyed_settings)
    yield {"access": access, "refresh": refresh, "access with a key pair": keyed_access}
    await keyed_person.channel.close()


def _kinds(person: Person, settings: Settings) -> tuple[Kind, Kind]:
    def get_me(token: str) -> Any:
        return person.auth.GetMe(pb.GetMeRequest(), metadata=(("authorization", f"Bearer {token}"),))

    def refresh(token: str) -> Any:
        return person.auth.Refresh(pb.RefreshRequest(refresh_token=token))

    person.bearer.token = ""
    access_key, refresh_key = read_keys(settings).access[0], read_keys(settings).refresh[0]
    return (
        Kind("access", access_key, refresh_key, person.tokens.access_token, get_me),
        Kind("refresh", refresh_key, access_key, person.tokens.refresh_token, refresh),
    )


@pytest.fixture(params=["access", "refresh", "access with a key pair"])
def kind(request: pytest.FixtureRequest, kinds: dict[str, Kind]) -> Kind:
    return kinds[request.param]


def resigned(kind: Kind, payload: bytes) -> str:
    """The genuine header before another payload, signed."""
    text = f"{kind.genuine.split('.')[0]}.{encode(payload)}"
    return f"{text}.{kind.sign(text)}"


def with_other_end(token: str) -> str:
    return token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")


# What no data file can say.
FORGERIES: dict[str, Callable[[Kind], str]] = {
    "changed signature": lambda kind: with_other_end(kind.genuine),
    "cut": lambda kind: kind.genuine[:-1],
    "header that is nested deeply": lambda kind: f"{encode(b'[' * 2900)}.e30.AAAA",
    "end after the end of time": lambda kind: kind.forge({"claims": {"exp": 10**400}}),
    "payload that is no object": lambda kind: resigned(kind, b"[]"),
    "payload that is no JSON": lambda kind: resigned(kind, b"\xff\x00"),
    "payload that is nested deeply": lambda kind: resigned(kind, b"[" * 1900),
} | {case["name"]: lambda kind, case=case: kind.forge(case) for case in CASES}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
async def test_a_token_that_is_not_ours_or_not_for_this_is_refused(forge: Callable[[Kind], str], kind: Kind) -> None:
    refused = await refusal(kind.present(forge(kind)))
    assert refused is not None
    if refused.metadata.get("session") == "ended":  # which only who holds a refresh token with our signature is told
        assert kind.name == "refresh"
        assert forge in SIGNED
        assert (refused.code, refused.reason) == ("UNAUTHENTICATED", "CREDENTIALS_INVALID")
    else:
        assert refused == await refusal(kind.present("garbage"))


ENDED = ("expired", "end before the beginning of time", "unknown session")
SIGNED = [FORGERIES[name] for name in ENDED]

# Clocks that differ


LATE_OR_EARLY = {
    "expired a moment ago": {"exp": {"now": -50}},
    "of a server that is ahead": {"iat": {"now": 50}, "exp": {"now": 950}},
    "not yet good, by the clock of a server that is ahead": {"nbf": {"now": 50}},
}


@pytest.mark.parametrize("claims", LATE_OR_EARLY.values(), ids=list(LATE_OR_EARLY))
async def test_a_token_of_a_server_whose_clock_differs_by_less_than_a_minute_is_taken(
    new_person: NewPerson, settings: Settings, claims: dict[str, object]
) -> None:
    for kind in _kinds(await new_person(), settings):
        assert await outcome(kind.present(kind.forge({"claims": claims}))) == OK


async def test_a_clock_that_was_set_back_ends_access_tokens_alone(new_person: NewPerson, settings: Settings) -> None:
    """Access tokens are exchanged then. Were refresh tokens refused as well, it would sign everybody out."""
    access, refresh = _kinds(await new_person(), settings)
    case = {"claims": {"iat": {"now": 3600}, "exp": {"now": 4500}}}
    assert await outcome(access.present(access.forge(case))) == UNAUTHENTICATED
    assert await outcome(refresh.present(refresh.forge(case))) == OK


async def test_an_access_token_that_is_remembered_ends_a_minute_after_its_time(
    new_person: NewPerson, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    access, _ = _kinds(await new_person(), settings)
    assert await outcome(access.present(access.genuine)) == OK
    end = jwt.decode(access.genuine, options={"verify_signature": False})["exp"]
    for seconds, expected in ((59, OK), (61, UNAUTHENTICATED)):
        monkeypatch.setattr(principal, "time", SimpleNamespace(time=lambda seconds=seconds: end + seconds))
        assert await outcome(access.present(access.genuine)) == expected


@pytest.mark.parametrize("names", [("access", "refresh"), ("refresh", "access")], ids=" as ".join)
async def test_a_token_of_the_other_kind_is_refused(names: tuple[str, str], kinds: dict[str, Kind]) -> None:
    genuine, kind = kinds[names[0]].genuine, kinds[names[1]]
    assert await outcome(kind.present(genuine)) == UNAUTHENTICATED
    assert await refusal(kind.present(genuine)) == await refusal(kind.present("garbage"))


async def test_what_the_forger_starts_from_is_taken(kind: Kind) -> None:
    """Else the refusals above would prove nothing."""
    assert await outcome(kind.present(kind.forge({}))) == OK
    assert kind.forge({}) == kind.genuine


def test_every_case_is_another(kinds: dict[str, Kind]) -> None:
    forged = {(kinds["access"].forge(case), kinds["access with a key pair"].forge(case)) for case in CASES}
    assert len(forged) == len({case["name"] for case in CASES}) == len(CASES)


async def test_another_persons_session_is_refused(kinds: dict[str, Kind], owner: Person) -> None:
    """Only we could sign that; should it ever happen, session and person have to fit together."""
    forged = kinds["access"].forge({"claims": {"sub": owner.user_id}})
    assert await outcome(kinds["access"].present(forged)) == UNAUTHENTICATED


@settings(max_examples=60, deadline=None)
@given(token=st.one_of(st.text(st.characters(min_codepoint=32, max_codepoint=126)), st.text(alphabet="eyJ.A0-_=")))
async def test_garbage_is_refused_like_everything_else(token: str, kinds: dict[str, Kind]) -> None:
    assert await outcome(kinds["access"].present(token)) == UNAUTHENTICATED
    assert await outcome(kinds["refresh"].present(token if token.strip() else ".")) == UNAUTHENTICATED


HEADERS: dict[str, tuple[list[tuple[str, str]], str]] = {
    "as documented": ([("authorization", "Bearer {token}")], OK),
    "lower case": ([("authorization", "bearer {token}")], OK),
    "upper case": ([("authorization", "BEARER {token}")], OK),
    "none": ([], UNAUTHENTICATED),
    "empty": ([("authorization", "")], UNAUTHENTICATED),
    "scheme alone": ([("authorization", "Bearer")], UNAUTHENTICATED),
    "scheme and space": ([("authorization", "Bearer ")], UNAUTHENTICATED),
    "token alone": ([("authorization", "{token}")], UNAUTHENTICATED),
    "other scheme": ([("authorization", "Basic {token}")], UNAUTHENTICATED),
    "two spaces": ([("authorization", "Bearer  {token}")], UNAUTHENTICATED),
    "comma": ([("authorization", "Bearer {token}, Bearer {token}")], UNAUTHENTICATED),
    "twice the same": ([("authorization", "Bearer {token}")] * 2, UNAUTHENTICATED),
    "good, then bad": ([("authorization", "Bearer {token}"), ("authorization", "Bearer x")], UNAUTHENTICATED),
    "bad, then good": ([("authorization", "Bearer x"), ("authorization", "Bearer {token}")], UNAUTHENTICATED),
    "empty, then good": ([("authorization", ""), ("authorization", "Bearer {token}")], UNAUTHENTICATED),
    "proxy's header": ([("proxy-authorization", "Bearer {token}")], UNAUTHENTICATED),
    "cookie": ([("cookie", "access_token={token}")], UNAUTHENTICATED),
}


@pytest.mark.parametrize(("headers", "expected"), HEADERS.values(), ids=HEADERS)
async def test_the_token_is_taken_from_one_authorization_header_alone(
    headers: list[tuple[str, str]], expected: str, stranger: Person, owner: Person
) -> None:
    metadata = [(name, value.format(token=owner.tokens.access_token)) for name, value in headers]
    assert await outcome(stranger.auth.GetMe(pb.GetMeRequest(), metadata=grpc.aio.Metadata(*metadata))) == expected


async def test_a_refused_token_says_what_to_do(stranger: Person) -> None:
    refused = await refusal(stranger.auth.GetMe(pb.GetMeRequest()))
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.reason) == ("UNAUTHENTICATED", "CREDENTIALS_INVALID")
    assert "sign in, or refresh" in refused.message
