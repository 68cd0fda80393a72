"""Keys of tokens: exchanged while a server is at work, and published to services that check tokens themselves."""

import asyncio
import json
import signal
from collections.abc import Mapping
from pathlib import Path

import jwt
import pytest
from google.protobuf.json_format import MessageToJson

from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.auth.keys import read_keys
from aiworkspace_server.settings import Settings, SettingsError
from tests.conftest import Stores, store_settings
from tests.people import Person
from tests.process import ServerProcess
from tests.refusals import OK, UNAUTHENTICATED, outcome

OLD, NEW = "old-secret-of-access-Xo4vKq7yPz0rGm2s", "new-secret-of-access-Bd1hNj5uQe9aVc3f"
OLD_REFRESH, NEW_REFRESH = "old-secret-of-refresh-Zt8wHs2xMg4pYl7o", "new-secret-of-refresh-Jb0nEv5kCq1dWa6r"

# What .env says before the exchange and after each of its steps.
STEPS: list[dict[str, str]] = [
    {"JWT_SECRET": OLD, "JWT_REFRESH_SECRET": OLD_REFRESH},
    {
        "JWT_SECRET": OLD,
        "JWT_REFRESH_SECRET": OLD_REFRESH,
        "JWT_OTHER_SECRETS": NEW,
        "JWT_REFRESH_OTHER_SECRETS": NEW_REFRESH,
    },
    {
        "JWT_SECRET": NEW,
        "JWT_REFRESH_SECRET": NEW_REFRESH,
        "JWT_OTHER_SECRETS": OLD,
        "JWT_REFRESH_OTHER_SECRETS": OLD_REFRESH,
    },
    {"JWT_SECRET": NEW, "JWT_REFRESH_SECRET": NEW_REFRESH},
]


def write_env(folder: Path, values: Mapping[str, str]) -> None:
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))


async def reload_keys(server: ServerProcess) -> None:
    """Returns when the server has read its keys anew, or refused to."""
    before = server.log.read_text().count("keys of tokens")
    server.send(signal.SIGHUP)
    for _ in range(500):
        if server.log.read_text().count("keys of tokens") > before:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(server.log.read_text())


async def use(person: Person, stop: asyncio.Event) -> int:
    """Calls and refreshes in a loop, as fast as it goes. Returns how often."""
    rounds = 0
    while not stop.is_set():
        await person.auth.GetMe(pb.GetMeRequest())
        answer = await person.auth.Refresh(pb.RefreshRequest(refresh_token=person.tokens.refresh_token))
        person.tokens = answer.tokens
        person.bearer.token = answer.tokens.access_token
        rounds += 1
    return rounds


async def test_an_exchange_of_keys_fails_no_call_and_the_old_key_is_refused_at_its_end(tmp_path: Path) -> None:
    write_env(tmp_path, STEPS[0])
    server = ServerProcess(tmp_path, {"rate_limit_factor": 1000, "password_hash_cost": 10})
    async with server:
        people = [await Person(server.address).register() for _ in range(4)]
        idle = people.pop()
        stop = asyncio.Event()
        loops = [asyncio.create_task(use(person, stop)) for person in people]
        for step in STEPS[1:]:
            await asyncio.sleep(0.5)
            write_env(tmp_path, step)
            await reload_keys(server)
            if step is not STEPS[-1]:
                assert await outcome(idle.auth.GetMe(pb.GetMeRequest())) == OK, "which also puts it into the cache"
        await asyncio.sleep(0.5)
        stop.set()
        assert min(await asyncio.gather(*loops)) > 20
        assert await outcome(idle.auth.GetMe(pb.GetMeRequest())) == UNAUTHENTICATED
        refresh = pb.RefreshRequest(refresh_token=idle.tokens.refresh_token)
        assert await outcome(idle.auth.Refresh(refresh)) == UNAUTHENTICATED
        for person in (*people, idle):
            await person.channel.close()


async def test_keys_with_a_fault_change_nothing(tmp_path: Path) -> None:
    write_env(tmp_path, STEPS[0])
    async with ServerProcess(tmp_path, {"password_hash_cost": 10}) as server:
        person = await Person(server.address).register()
        write_env(tmp_path, STEPS[3] | {"JWT_OTHER_SECRETS": "weak"})
        await reload_keys(server)
        assert await outcome(person.auth.GetMe(pb.GetMeRequest())) == OK
        assert "JWT_OTHER_SECRETS" in server.log.read_text()
        assert "weak" not in server.log.read_text()
        await person.channel.close()


# Tokens that others check


async def test_other_services_check_tokens_with_the_published_keys(keyed: App) -> None:
    person = await Person(keyed.address).register()
    published = MessageToJson(await person.auth.GetJwks(pb.GetJwksRequest()))
    token = person.tokens.access_token
    key = jwt.PyJWKSet.from_json(published)[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, ["RS256"], audience="aiworkspace/access", issuer="aiworkspace")
    assert claims["sub"] == person.user_id
    await person.channel.close()


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
def test_keys_of_every_kind_are_published_without_their_secret(
    algorithm: str, key_files: dict[str, Path], stores: Stores
) -> None:
    others = [path for name, path in key_files.items() if name != algorithm]
    files = {"jwt_private_key_file": key_files[algorithm], "jwt_other_key_files": others}
    keys = read_keys(Settings.model_validate(store_settings(stores) | files)).access
    assert keys[0].algorithm == algorithm
    published = json.dumps({"keys": [dict(key.jwk or {}) for key in keys]})
    assert {key.algorithm_name for key in jwt.PyJWKSet.from_json(published).keys} == {"EdDSA", "ES256", "RS256"}
    assert [sorted(json.loads(published)["keys"][n]) for n in range(3) if "d" in json.loads(published)["keys"][n]] == []


async def test_secrets_are_not_published(stranger: Person) -> None:
    assert list((await stranger.auth.GetJwks(pb.GetJwksRequest())).keys) == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read"),
        (b"", "no unencrypted PEM key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no unencrypted PEM key"),
    ],
    ids=["missing", "empty", "damaged"],
)
def test_a_key_file_that_is_of_no_use_is_named(
    content: bytes | None, problem: str, tmp_path: Path, stores: Stores
) -> None:
    file = tmp_path / "key.pem"
    if content is not None:
        file.write_bytes(content)
    settings = Settings.model_validate(store_settings(stores) | {"jwt_private_key_file": file})
    with pytest.raises(SettingsError, match=rf"JWT_PRIVATE_KEY_FILE.*{problem}"):
        read_keys(settings)


def test_a_key_that_is_there_twice_is_refused(key_files: dict[str, Path], stores: Stores) -> None:
    twice = {"jwt_private_key_file": key_files["EdDSA"], "jwt_other_key_files": [key_files["EdDSA"]]}
    with pytest.raises(SettingsError, match="a key twice"):
        read_keys(Settings.model_validate(store_settings(stores) | twice))
