"""Tokens that are not ours, not for this, or no longer good: all refused alike, as access and as refresh tokens."""

import base64
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace_server.settings import Settings
from tests.people import NewPerson, Person
from tests.refusals import OK, UNAUTHENTICATED, Refusal, outcome, refusal

Claims = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One of the two kinds of token: how the server is asked to take one, and how a forger would make one."""

    name: str
    secret: str
    genuine: str
    present: Callable[[str], Any]

    def forge(
        self, headers: Mapping[str, Any] | None = None, *, secret: str = "", algorithm: str = "HS256", **claims: Any
    ) -> str:
        """The genuine token with these headers and claims instead of its own, without those that are None."""
        real = jwt.decode_complete(self.genuine, options={"verify_signature": False})
        payload = {name: value for name, value in (real["payload"] | claims).items() if value is not None}
        key = "" if algorithm == "none" else secret or self.secret
        return jwt.encode(payload, key, algorithm, headers={**real["header"], **(headers or {}), "alg": algorithm})


@pytest.fixture(scope="session")
async def kinds(new_person: NewPerson, stranger: Person, settings: Settings) -> dict[str, Kind]:
    person = await new_person()

    def get_me(token: str) -> Any:
        return stranger.auth.GetMe(pb.GetMeRequest(), metadata=(("authorization", f"Bearer {token}"),))

    def refresh(token: str) -> Any:
        return stranger.auth.Refresh(pb.RefreshRequest(refresh_token=token))

    access, refresh_secret = settings.jwt_secret.get_secret_value(), settings.jwt_refresh_secret.get_secret_value()
    return {
        "access": Kind("access", access, person.tokens.access_token, get_me),
        "refresh": Kind("refresh", refresh_secret, person.tokens.refresh_token, refresh),
    }


@pytest.fixture(params=["access", "refresh"])
def kind(request: pytest.FixtureRequest, kinds: dict[str, Kind]) -> Kind:
    return kinds[request.param]


@pytest.fixture
def other(kind: Kind, kinds: dict[str, Kind]) -> Kind:
    return kinds["refresh" if kind.name == "access" else "access"]


def segment(content: object) -> str:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def with_header(kind: Kind, **header: Any) -> str:
    """The genuine token with another header before the same payload and signature."""
    _, payload, signature = kind.genuine.split(".")
    genuine = jwt.get_unverified_header(kind.genuine)
    return f"{segment({**genuine, **header})}.{payload}.{signature}"


FORGERIES: dict[str, Callable[[Kind, Kind], str]] = {
    "the other kind": lambda kind, other: other.genuine,
    "the other kind's type": lambda kind, other: kind.forge({"typ": f"{other.name}+jwt"}),
    "plain type": lambda kind, other: kind.forge({"typ": "JWT"}),
    "the other kind's audience": lambda kind, other: kind.forge(aud=f"aiworkspace/{other.name}"),
    "both audiences": lambda kind, other: kind.forge(aud=["aiworkspace/access", "aiworkspace/refresh"]),
    "no audience": lambda kind, other: kind.forge(aud=None),
    "the other kind's key": lambda kind, other: kind.forge(secret=other.secret),
    "no algorithm": lambda kind, other: kind.forge(algorithm="none"),
    "no algorithm, signed": lambda kind, other: with_header(kind, alg="none"),
    "no algorithm, capital": lambda kind, other: with_header(kind, alg="None"),
    "stronger algorithm": lambda kind, other: kind.forge(algorithm="HS512"),
    "asymmetric algorithm": lambda kind, other: with_header(kind, alg="RS256"),
    "algorithm of another type": lambda kind, other: with_header(kind, alg=["HS256"]),
    "guessed key": lambda kind, other: kind.forge(secret="secret-secret-secret-secret-secret"),
    "other key id": lambda kind, other: kind.forge({"kid": "00000000"}),
    "path as key id": lambda kind, other: kind.forge({"kid": "../../dev/null"}),
    "number as key id": lambda kind, other: with_header(kind, kid=1),
    "key of its own": lambda kind, other: with_header(kind, jwk={"kty": "oct", "k": "AAAA"}),
    "address of a key": lambda kind, other: with_header(kind, jku="http://127.0.0.1:1/keys"),
    "unknown critical header": lambda kind, other: with_header(kind, crit=["exp"], exp=1),
    "detached payload": lambda kind, other: with_header(kind, crit=["b64"], b64=False),
    "other issuer": lambda kind, other: kind.forge(iss="somebody"),
    "no issuer": lambda kind, other: kind.forge(iss=None),
    "no end": lambda kind, other: kind.forge(exp=None),
    "expired": lambda kind, other: kind.forge(exp=int(time.time()) - 1),
    "end that is no number": lambda kind, other: kind.forge(exp="never"),
    "end after the end of time": lambda kind, other: kind.forge(exp=10**400),
    "issued in the future": lambda kind, other: kind.forge(iat=int(time.time()) + 3600),
    "no issue time": lambda kind, other: kind.forge(iat=None),
    "no session": lambda kind, other: kind.forge(sid=None),
    "unknown session": lambda kind, other: kind.forge(sid=str(uuid.uuid4())),
    "session that is no id": lambda kind, other: kind.forge(sid="' OR true --"),
    "no id": lambda kind, other: kind.forge(jti=None),
    "no person": lambda kind, other: kind.forge(sub=None),
    "person that is no id": lambda kind, other: kind.forge(sub="admin"),
    "changed payload": lambda kind, other: ".".join(
        (kind.genuine.split(".")[0], segment({"sub": "admin"}), kind.genuine.split(".")[2])
    ),
    "changed signature": lambda kind, other: kind.genuine[:-4] + ("AAAA" if kind.genuine[-4:] != "AAAA" else "BBBB"),
    "no signature": lambda kind, other: kind.genuine.rpartition(".")[0] + ".",
    "cut": lambda kind, other: kind.genuine[:-1],
    "two parts": lambda kind, other: kind.genuine.rpartition(".")[0],
    "four parts": lambda kind, other: kind.genuine + ".AAAA",
    "header that is no object": lambda kind, other: f"{segment([])}.{segment({})}.AAAA",
    "header that is nested deeply": lambda kind, other: f"{segment(b'[' * 2900)}.e30.AAAA",
    "payload that is no object": lambda kind, other: jwt.api_jws.encode(
        b"[]", kind.secret, "HS256", jwt.get_unverified_header(kind.genuine)
    ),
    "payload that is no JSON": lambda kind, other: jwt.api_jws.encode(
        b"\xff\x00", kind.secret, "HS256", jwt.get_unverified_header(kind.genuine)
    ),
    "only dots": lambda kind, other: "..",
}


@pytest.mark.filterwarnings("ignore:The HMAC key is")  # too short for HS512, says the library
@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
async def test_a_token_that_is_not_ours_or_not_for_this_is_refused(
    forge: Callable[[Kind, Kind], str], kind: Kind, other: Kind
) -> None:
    refused = await refusal(kind.present(forge(kind, other)))
    assert refused is not None
    assert refused == await refusal(kind.present("garbage"))


async def test_what_the_forger_starts_from_is_taken(kind: Kind) -> None:
    """Else the refusals above would prove nothing."""
    assert await outcome(kind.present(kind.forge())) == OK
    assert kind.forge() == kind.genuine


async def test_another_persons_session_is_refused(kinds: dict[str, Kind], owner: Person) -> None:
    """Only we could sign that; should it ever happen, session and person have to fit together."""
    assert await outcome(kinds["access"].present(kinds["access"].forge(sub=owner.user_id))) == UNAUTHENTICATED


@settings(max_examples=60, deadline=None)
@given(token=st.one_of(st.text(st.characters(min_codepoint=32, max_codepoint=126)), st.text(alphabet="eyJ.A0-_=")))
async def test_garbage_is_refused_like_everything_else(token: str, kinds: dict[str, Kind]) -> None:
    assert await outcome(kinds["access"].present(token)) == UNAUTHENTICATED
    assert await outcome(kinds["refresh"].present(token or ".")) == UNAUTHENTICATED


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
