"""The file in which the command line stores tokens. Only its owner can read it; it has an entry for every server."""

import asyncio
import fcntl
import json
import os
import secrets
import stat
import unicodedata
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

from aiworkspace_client.tokens import Tokens, TokenStore

_TOKEN_FIELDS = ("access_token", "refresh_token", "refresh_time")
_DEVICE = "device_token "  # and the email address


class CredentialFileError(Exception):
    """The file cannot be used. The message says what to do."""


def default_path() -> Path:
    """Return $XDG_CONFIG_HOME/aiws/credentials.json. A relative XDG_CONFIG_HOME counts as unset."""
    configured = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if configured.is_absolute():
        return configured / "aiws" / "credentials.json"
    try:
        return Path.home() / ".config" / "aiws" / "credentials.json"
    except RuntimeError:  # neither HOME nor an entry in the password database
        raise CredentialFileError("You have no home directory. Set HOME or XDG_CONFIG_HOME to a directory.") from None


class CredentialFile(TokenStore):
    """The entry of one server: tokens, email address, last organization and workspace, and device tokens.

    Concurrent processes lock the file: no write is lost, and only one of them uses a refresh token, which works once.
    """

    def __init__(self, path: Path, server: str) -> None:
        super().__init__()
        self.path = path
        self._server = server

    def load(self) -> Tokens | None:
        entry = self._entry(self._read())
        if not entry.get("access_token"):
            return None
        return Tokens(entry["access_token"], entry.get("refresh_token", ""), entry.get("refresh_time"))

    def save(self, tokens: Tokens | None) -> None:
        values = (tokens.access_token, tokens.refresh_token, tokens.refresh_time) if tokens else (None, None, None)
        self._update(dict(zip(_TOKEN_FIELDS, values, strict=True)))

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        with self._lock_file("refresh.lock") as file:
            for pause in repeat(0.05):
                if _try_lock(file):
                    break
                await asyncio.sleep(pause)
            yield

    def recall(self, name: str) -> str:
        """Return the value stored under the name, or an empty string."""
        return str(self._entry(self._read()).get(name, ""))

    def remember(self, **values: str) -> None:
        """Store values for later commands. Empty values are removed."""
        self._update({name: value or None for name, value in values.items()})

    def device_token(self, email: str) -> str:
        """Return the token of the last sign-in to the account, or an empty string."""
        return self.recall(_device(email))

    def remember_device(self, email: str, token: str) -> None:
        self.remember(**{_device(email): token})

    def forget(self) -> None:
        """Remove everything about the server except device tokens, which are valid for longer than a session."""
        names = self._entry(self._read())
        self._update({name: None for name in names if not name.startswith(_DEVICE)})

    def _update(self, changes: dict[str, Any]) -> None:
        with self._lock_file("write.lock") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            content = self._read()
            entry = {**self._entry(content), **changes}
            servers = content.setdefault("servers", {})
            servers[self._server] = {name: value for name, value in entry.items() if value is not None}
            if not servers[self._server]:
                del servers[self._server]
            self._replace(json.dumps(content, indent=2) + "\n")

    def _entry(self, content: dict[str, Any]) -> dict[str, Any]:
        entry: dict[str, Any] = content.get("servers", {}).get(self._server, {})
        return entry

    def _read(self) -> dict[str, Any]:
        try:
            with self.path.open(encoding="utf-8") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    raise CredentialFileError(f"Others can read {self.path}. Run: chmod 600 {self.path}")
                content = json.load(file)
        except FileNotFoundError:
            return {}
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise CredentialFileError(f"{self.path} is damaged. Remove it and sign in again: aiws login")
        return content

    def _replace(self, text: str) -> None:
        """Write a new file under another name and rename it, so that a crash leaves the old file or the new one."""
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    @contextmanager
    def _lock_file(self, name: str) -> Iterator[int]:
        """Yield a descriptor to lock. Closing it unlocks."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path.with_name(name), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


class NoFile(CredentialFile):
    """Stores nothing: for a backend with a key, which needs no tokens and may have no writable directory."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull), "")

    def _read(self) -> dict[str, Any]:
        return {}

    def _update(self, changes: dict[str, Any]) -> None:
        pass


def file_for_key(server: str) -> CredentialFile:
    """Return the file, or one that stores nothing if there is no home directory or it is not writable."""
    try:
        path = default_path()
    except CredentialFileError:
        return NoFile()
    file = CredentialFile(path, server)
    try:
        file.remember()
    except OSError:
        return NoFile()
    return file


def _device(email: str) -> str:
    return _DEVICE + unicodedata.normalize("NFC", email).strip().lower()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
