"""The secrets of an embedded server: generated once, stored in its data directory, readable only by its owner."""

import fcntl
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path


class SecretsFileError(Exception):
    """The secrets file cannot be trusted or used; the text says which file and what to do."""


def ensure(data_dir: Path, names: tuple[str, ...]) -> Path:
    """Return the path of `data_dir`/secrets.env, a dotenv file, after adding secrets for the names that it lacks."""
    path = data_dir / "secrets.env"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.path.lexists(path):
            _create(path, names)
        _check(path.lstat(), path)
        while _missing(path.read_text("utf-8"), names):
            _complete(path, names)
    except FileExistsError:
        raise SecretsFileError(f"DATA_DIR: {data_dir} is not a directory") from None
    except OSError as error:
        raise SecretsFileError(f"DATA_DIR: {path} cannot be used: {error.strerror}") from error
    except UnicodeDecodeError:
        raise SecretsFileError(f"{path} is not UTF-8: restore it from a backup") from None
    return path


def _create(path: Path, names: tuple[str, ...]) -> None:
    """Create the file atomically: servers that start together get one file, and a crash leaves no partial one."""
    text = "# Generated once for this data directory. With these secrets one can sign in as anybody.\n"
    draft = _write_draft(path, text + _new_secrets(names))
    try:
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def _complete(path: Path, names: tuple[str, ...]) -> None:
    """Replace the file of an older version atomically. Its lock keeps a second server from doing the same."""
    with path.open(encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_ino != path.lstat().st_ino:
            return  # another server has replaced it
        text = file.read()
        missing = _missing(text, names)
        draft = _write_draft(path, text + ("" if text.endswith("\n") else "\n") + _new_secrets(missing))
        draft.replace(path)


def _missing(text: str, names: tuple[str, ...]) -> tuple[str, ...]:
    given = {name.lower() for name in re.findall(r"^[ \t]*(?:export[ \t]+)?(\w+)[ \t]*=", text, re.MULTILINE)}
    return tuple(name for name in names if name not in given)


def _new_secrets(names: tuple[str, ...]) -> str:
    return "".join(f"{name.upper()}={secrets.token_urlsafe(48)}\n" for name in names)


def _write_draft(path: Path, text: str) -> Path:
    """Write a private file beside `path` and flush it to disk. Return its path."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return draft


def _check(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SecretsFileError(f"{path} is not a regular file")
    if status.st_uid != os.geteuid():
        raise SecretsFileError(f"{path} belongs to another user")
    if status.st_mode & 0o077:
        raise SecretsFileError(f"{path} can be read by others: delete it to get new secrets, or chmod 600 it")
