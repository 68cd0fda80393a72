"""The file with the tokens: private, whole, and shared by processes."""

import asyncio
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aiworkspace_client import Tokens
from aiworkspace_client.cli.credentials import CredentialFile, CredentialFileError, default_path

TOKENS = Tokens("access", "refresh", 1234.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config" / "aiws" / "credentials.json"


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_only_the_owner_can_read_it(path: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        CredentialFile(path, "a:1").save(TOKENS)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_every_server_has_an_entry(path: Path) -> None:
    one, other = CredentialFile(path, "a:1"), CredentialFile(path, "b:2")
    assert one.load() is None
    one.save(TOKENS)
    one.remember(org_id="org")
    other.save(Tokens("other"))
    assert one.load() == TOKENS
    assert other.load() == Tokens("other")
    assert (one.recall("org_id"), other.recall("org_id")) == ("org", "")


def test_the_end_of_a_session_keeps_what_was_chosen_and_logout_does_not(path: Path) -> None:
    file = CredentialFile(path, "a:1")
    file.save(TOKENS)
    file.remember(org_id="org", workspace_id="workspace")
    file.save(None)
    assert (file.load(), file.recall("org_id")) == (None, "org")
    file.remember(workspace_id="")
    assert file.recall("workspace_id") == ""
    file.forget()
    assert json.loads(path.read_text()) == {"servers": {}}


def test_a_device_stays_known_after_logout_to_each_account_by_itself(path: Path) -> None:
    file = CredentialFile(path, "a:1")
    file.save(TOKENS)
    file.remember_device("Ada@Example.com", "ada's")
    file.remember_device("grace@example.com", "grace's")
    file.forget()
    assert file.load() is None
    emails = "ada@example.com", "GRACE@example.com", "nobody@example.com"
    assert [file.device_token(email) for email in emails] == ["ada's", "grace's", ""]
    assert CredentialFile(path, "b:2").device_token("ada@example.com") == ""


def test_a_file_that_others_can_read_is_refused(path: Path) -> None:
    file = CredentialFile(path, "a:1")
    file.save(TOKENS)
    path.chmod(0o640)
    with pytest.raises(CredentialFileError, match="chmod 600"):
        file.load()


@pytest.mark.parametrize("content", ["", "{", '"text"', "[]", "\xff"])
def test_a_damaged_file_is_explained(path: Path, content: str) -> None:
    file = CredentialFile(path, "a:1")
    file.save(TOKENS)
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(CredentialFileError, match="aiws login"):
        file.load()


def test_a_write_that_fails_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = CredentialFile(path, "a:1")
    file.save(TOKENS)
    before = sorted(path.parent.iterdir())

    def full(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        file.save(Tokens("other"))
    assert file.load() == TOKENS
    assert sorted(path.parent.iterdir()) == before


def test_writers_side_by_side_lose_nothing(path: Path) -> None:
    def write(number: int) -> None:
        CredentialFile(path, f"server-{number % 4}:1").remember(**{f"value_{number}": str(number)})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    found = [CredentialFile(path, f"server-{number % 4}:1").recall(f"value_{number}") for number in range(40)]
    assert found == [str(number) for number in range(40)]


async def test_one_at_a_time_refreshes(path: Path) -> None:
    inside, most = 0, 0

    async def refresh() -> None:
        nonlocal inside, most
        async with CredentialFile(path, "a:1").exclusive():
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(refresh() for _ in range(5)))
    assert most == 1


def test_the_place_follows_the_convention(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert default_path() == tmp_path / ".config/aiws/credentials.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert default_path() == tmp_path / ".config/aiws/credentials.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/xdg")
    assert default_path() == Path("/etc/xdg/aiws/credentials.json")
