from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from aiworkspace_server.app import App, running
from aiworkspace_server.settings import Settings
from tests.support.passwords import real_salt
from tests.support.settings import store_settings
from tests.support.stores import Stores, other_databases


@pytest.fixture
def dear_hashes(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes that cost what settings say, for tests of what they cost."""
    monkeypatch.setattr(bcrypt, "gensalt", real_salt)
    passwords = app.credentials.passwords
    monkeypatch.setattr(passwords, "nobodys_hash", passwords.hash(""))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often bcrypt was asked to hash or to check a password, by the name of its function."""
    count: Counter[str] = Counter()
    for name in ("hashpw", "checkpw"):
        function = getattr(bcrypt, name)

        def counting(*arguments: bytes, name: str = name, function: Callable[..., object] = function) -> object:
            count[name] += 1
            return function(*arguments)

        monkeypatch.setattr(bcrypt, name, counting)
    return count


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
