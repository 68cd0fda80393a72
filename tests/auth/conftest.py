from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace_server.app import App, running
from aiworkspace_server.settings import Settings
from tests.support.passwords import real_salt
from tests.support.people import PASSWORD, Person
from tests.support.settings import store_settings
from tests.support.stores import Stores, other_databases

SignIn = Callable[..., Awaitable[Person]]


@pytest.fixture(scope="session")
async def stranger(app: App) -> AsyncIterator[Person]:
    """Somebody with a connection and nothing else."""
    person = Person(app.address)
    yield person
    await person.channel.close()


@pytest.fixture(scope="session")
async def sign_in(app: App) -> AsyncIterator[SignIn]:
    """Signs a person in on one more device: `await sign_in(person, "phone")`."""
    devices: list[Person] = []

    async def sign_in(person: Person, device_name: str = "", password: str = PASSWORD) -> Person:
        device = Person(app.address)
        devices.append(device)
        device.email = person.email
        request = pb.LoginRequest(email=person.email, password=password, device_name=device_name)
        device.sign_in(await device.auth.Login(request))
        return device

    yield sign_in
    for device in devices:
        await device.channel.close()


@pytest.fixture
def dear_hashes(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes that cost what settings say, for tests of what they cost."""
    monkeypatch.setattr(bcrypt, "gensalt", real_salt)
    passwords = app.credentials.passwords
    monkeypatch.setattr(passwords, "_nobodys", passwords._hash(""))


@pytest.fixture(scope="session")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A private key in a file for each algorithm that can be checked by others."""
    folder = tmp_path_factory.mktemp("keys")
    keys: dict[str, Any] = {
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "RS256": rsa.generate_private_key(65537, 2048),
    }
    for name, key in keys.items():
        (folder / name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {name: folder / name for name in keys}


@pytest.fixture(scope="session")
async def keyed_settings(stores: Stores, key_files: dict[str, Path]) -> Settings:
    """Of a server that signs access tokens with an RSA key."""
    values = store_settings(await other_databases(stores, "keyed"))
    return Settings.model_validate(values | {"jwt_private_key_file": key_files["RS256"]})


@pytest.fixture(scope="session")
async def keyed(keyed_settings: Settings) -> AsyncIterator[App]:
    async with running(keyed_settings, migrating=True) as app:
        yield app
