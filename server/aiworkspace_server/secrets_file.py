"""The secrets of an embedded server: made once, kept in its data directory, readable by its owner alone."""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path


class SecretsFileError(Exception):
    """The secrets file cannot be trusted or used; the text says which file and what to do."""


def ensure(data_dir: Path, names: tuple[str, ...]) -> Path:
    """The path of `data_dir`/secrets.env, a dotenv file that is written with new secrets when there is none."""
    path = data_dir / "secrets.env"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.path.lexists(path):
            _create(path, names)
        _check(path.lstat(), path)
    except OSError as error:
        raise SecretsFileError(f"{path} cannot be used: {error.strerror}") from error
    return path


def _create(path: Path, names: tuple[str, ...]) -> None:
    """Linked into place whole: two servers that start together agree, and a crash leaves no half-written file."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w") as file:
            file.write("# Generated once for this data directory. Whoever reads these can sign in as anybody.\n")
            file.writelines(f"{name.upper()}={secrets.token_urlsafe(48)}\n" for name in names)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def _check(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SecretsFileError(f"{path} is not a regular file")
    if status.st_uid != os.geteuid():
        raise SecretsFileError(f"{path} belongs to another user")
    if status.st_mode & 0o077:
        raise SecretsFileError(f"{path} can be read by others: delete it to get new secrets, or chmod 600 it")
