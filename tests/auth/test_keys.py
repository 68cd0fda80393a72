"""Keys of tokens: which are taken from the settings, what others get to know of them, and what they check with it."""

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from google.protobuf.json_format import MessageToJson

from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.auth.keys import read_keys
from aiworkspace_server.settings import Settings, SettingsError
from tests.support.outcomes import OK, UNAUTHENTICATED, outcome
from tests.support.people import Person

SECRETS = {
    "jwt_secret": "access-tokens-Xo4vKq7yPz0rGm2sLw8t",
    "jwt_refresh_secret": "refresh-tokens-Bd1hNj5uQe9aVc3fRk6i",
    "password_pepper": "pepper-Zt8wHs2xMg4pYl7oJb0nEv5kCq1d",
    "encryption_secret": "encryption-Gh3pWs8yVn5bRk0dLt6zQm",
}
OTHER_SECRET = "other-tokens-Lq7dTf2mXs9cJw4nGb6y"


def settings_with(**values: Any) -> Settings:
    return Settings.model_validate(SECRETS | values)


def public(path: Path) -> bytes:
    return (
        load_pem_private_key(path.read_bytes(), None)
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )


def private(key: Any, password: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


# Which are taken


def test_the_first_key_signs_and_the_others_only_check(key_files: dict[str, Path]) -> None:
    values = {"jwt_other_secrets": OTHER_SECRET, "jwt_other_key_files": str(key_files["ES256"])}
    with_secret = read_keys(settings_with(**values)).access
    assert [(key.algorithm, key.signing is not None) for key in with_secret] == [
        ("HS256", True),
        ("HS256", False),
        ("ES256", False),
    ]
    with_file = read_keys(settings_with(**values, jwt_private_key_file=key_files["EdDSA"])).access
    assert [key.algorithm for key in with_file] == ["EdDSA", "HS256", "ES256"]
    assert with_file[1:] == with_secret[1:], "the secret is not taken while there is a private key"


def test_a_key_has_the_same_id_as_the_public_part_of_it(key_files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "public").write_bytes(public(key_files["RS256"]))
    signs = read_keys(settings_with(jwt_private_key_file=key_files["RS256"])).access[0]
    checks = read_keys(settings_with(jwt_other_key_files=f"{tmp_path}/public")).access[1]
    assert (signs.id, signs.jwk) == (checks.id, checks.jwk)


def test_the_id_of_a_key_is_its_thumbprint(tmp_path: Path) -> None:
    """The example of RFC 7638, section 3.1."""
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3"
        "oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdA"
        "ZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-"
        "kEgU8awapJzKnqDKgw"
    )
    example: Any = jwt.PyJWK({"kty": "RSA", "n": modulus, "e": "AQAB"}).key
    (tmp_path / "key").write_bytes(example.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    key = read_keys(settings_with(jwt_other_key_files=f"{tmp_path}/key")).access[1]
    assert key.id == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


WEAK = {
    "no key": b"a text",
    "empty": b"",
    "bytes": b"\xff\x00",
    "damaged": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    "certificate": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "RSA of 1024 bits": private(rsa.generate_private_key(65537, 1024)),
    "P-384": private(ec.generate_private_key(ec.SECP384R1())),
    "secp256k1": private(ec.generate_private_key(ec.SECP256K1())),
    "Ed448": private(ed448.Ed448PrivateKey.generate()),
    "DSA": private(dsa.generate_private_key(2048)),
    "with a password": private(ed25519.Ed25519PrivateKey.generate(), b"password"),
}


@pytest.mark.parametrize("name", ["jwt_private_key_file", "jwt_other_key_files"])
@pytest.mark.parametrize("content", WEAK.values(), ids=WEAK)
def test_a_file_with_a_weak_key_or_none_is_refused_by_name(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / "canary").write_bytes(content)
    assert problem_with({name: str(tmp_path / "canary")}).startswith(name.upper())


@pytest.mark.parametrize("name", ["jwt_private_key_file", "jwt_other_key_files"])
def test_a_file_that_cannot_be_read_is_refused_by_name(name: str, tmp_path: Path) -> None:
    for path in (tmp_path / "canary", tmp_path, Path("canary" * 100)):
        assert problem_with({name: str(path)}).startswith(name.upper())


def problem_with(values: dict[str, Any]) -> str:
    """What keeps the keys from being read, which never says what is in a setting."""
    with pytest.raises(SettingsError) as caught:
        read_keys(settings_with(**values))
    (problem,) = caught.value.problems
    assert "canary" not in problem
    return problem


def test_a_public_key_cannot_sign(key_files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "canary").write_bytes(public(key_files["ES256"]))
    assert problem_with({"jwt_private_key_file": tmp_path / "canary"}).startswith("JWT_PRIVATE_KEY_FILE")


def test_the_faulty_one_of_several_files_is_counted(key_files: dict[str, Path]) -> None:
    problem = problem_with({"jwt_other_key_files": f"{key_files['ES256']}, canary"})
    assert problem.startswith("JWT_OTHER_KEY_FILES: number 2")


def test_a_key_that_is_there_twice_is_refused(key_files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "public").write_bytes(public(key_files["EdDSA"]))
    twice = {"jwt_other_key_files": f"{key_files['EdDSA']} {tmp_path}/public"}
    assert problem_with(twice).startswith("JWT_OTHER_KEY_FILES")
    both = {"jwt_private_key_file": key_files["EdDSA"], "jwt_other_key_files": f"{tmp_path}/public"}
    assert problem_with(both).startswith("JWT_OTHER_KEY_FILES")


def test_keys_are_not_shown(key_files: dict[str, Path]) -> None:
    shown = repr(read_keys(settings_with(jwt_other_secrets=OTHER_SECRET, jwt_other_key_files=str(key_files["RS256"]))))
    assert not any(secret in shown for secret in (*SECRETS.values(), OTHER_SECRET, "PrivateKey"))


# What others get to know


async def jwks(person: Person) -> str:
    return MessageToJson(await person.auth.GetJwks(pb.GetJwksRequest()))


async def test_a_shared_secret_is_not_published(stranger: Person) -> None:
    assert json.loads(await jwks(stranger)) == {}


@pytest.fixture
async def ringed(keyed: App, keyed_settings: Settings) -> Any:
    """A server whose keys can be changed."""
    yield keyed
    keyed.credentials.use_keys(read_keys(keyed_settings))


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
async def test_another_service_can_check_access_tokens(
    algorithm: str, ringed: App, keyed_settings: Settings, key_files: dict[str, Path]
) -> None:
    others = " ".join(str(path) for name, path in key_files.items() if name != algorithm)
    files = {"jwt_private_key_file": key_files[algorithm], "jwt_other_key_files": others}
    ringed.credentials.use_keys(read_keys(settings_with(**files, jwt_other_secrets=OTHER_SECRET)))
    person = await Person(ringed.address).register()
    published = await jwks(person)
    key = jwt.PyJWKSet.from_json(published)[jwt.get_unverified_header(person.tokens.access_token)["kid"]]
    assert key.algorithm_name == algorithm
    claims = jwt.decode(
        person.tokens.access_token,
        key,
        algorithms=[algorithm],
        audience="aiworkspace/access",
        issuer="aiworkspace",
        options={"require": ["sub", "exp"]},
    )
    assert claims["sub"] == person.user_id
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(person.tokens.access_token[:-8] + "AAAAAAAA", key, audience="aiworkspace/access")
    keys = json.loads(published)["keys"]
    assert [(key["alg"], key["use"]) for key in keys[:1]] == [(algorithm, "sig")]
    assert {key["alg"] for key in keys} == key_files.keys()
    assert await outcome(person.auth.GetMe(pb.GetMeRequest())) == OK
    await person.channel.close()


async def test_nothing_private_is_published(ringed: App, key_files: dict[str, Path]) -> None:
    ringed.credentials.use_keys(read_keys(settings_with(jwt_other_key_files=" ".join(map(str, key_files.values())))))
    person = Person(ringed.address)
    keys = {key["alg"]: key for key in json.loads(await jwks(person))["keys"]}
    named = {"kid", "alg", "use", "kty"}
    assert keys["EdDSA"].keys() == named | {"crv", "x"}
    assert keys["ES256"].keys() == named | {"crv", "x", "y"}
    assert keys["RS256"].keys() == named | {"n", "e"}
    await person.channel.close()


async def test_a_token_of_a_key_that_was_taken_out_is_refused_though_it_was_taken_before(
    ringed: App, key_files: dict[str, Path]
) -> None:
    person = await Person(ringed.address).register()
    assert await outcome(person.auth.GetMe(pb.GetMeRequest())) == OK
    ringed.credentials.use_keys(read_keys(settings_with(jwt_private_key_file=key_files["EdDSA"])))
    assert await outcome(person.auth.GetMe(pb.GetMeRequest())) == UNAUTHENTICATED
    refreshed = await person.auth.Refresh(pb.RefreshRequest(refresh_token=person.tokens.refresh_token))
    person.bearer.token = refreshed.tokens.access_token
    assert await outcome(person.auth.GetMe(pb.GetMeRequest())) == OK
    await person.channel.close()
