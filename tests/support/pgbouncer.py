"""PgBouncer in transaction mode in front of the tests' PostgreSQL."""

import asyncio
import os
import pwd
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote

from psycopg import AsyncConnection, OperationalError
from sqlalchemy import make_url

from tests.support.programs import find_program
from tests.support.stores import Stores
from tests.support.tcp import free_port
from tests.support.waiting import until

# PgBouncer refuses to be root. It keeps the right to reach the socket of PostgreSQL, which is in a private directory.
_AS_NOBODY = ("--clear-groups", "--inh-caps=+dac_override", "--ambient-caps=+dac_override")


@asynccontextmanager
async def pgbouncer(stores: Stores, directory: Path, login: str, pool_size: int, **options: str) -> AsyncIterator[str]:
    """Yields the URL of a database for a login without a password. There are `pool_size` connections to share."""
    program, port = find_program("pgbouncer", "pgbouncer"), free_port()
    database = make_url(stores.postgres)
    sockets, name = unquote(str(database.query["host"])), database.database
    settings = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "trust",
        "auth_file": str(directory / "users.txt"),
        "pool_mode": "transaction",
        "default_pool_size": str(pool_size),
        "max_client_conn": "200",
        **options,
    }
    lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
    (directory / "users.txt").write_text(f'"{login}" ""\n')
    (directory / "pgbouncer.ini").write_text(f"[databases]\n{name} = host={sockets}\n[pgbouncer]\n{lines}")
    command = [*_unprivileged(), program, "-q", str(directory / "pgbouncer.ini")]
    with (directory / "pgbouncer.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    url = f"postgresql://{login}@127.0.0.1:{port}/{name}"

    async def answers() -> bool:
        assert process.returncode is None, (directory / "pgbouncer.log").read_text()
        try:
            async with await AsyncConnection.connect(url):
                return True
        except OperationalError as error:
            return "unsupported" in str(error)

    try:
        await until(answers, 60)
        yield url.replace("postgresql:", "postgresql+psycopg:", 1)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _unprivileged() -> list[str]:
    if os.geteuid() != 0:
        return []
    nobody = pwd.getpwnam("nobody")
    return ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", *_AS_NOBODY]
