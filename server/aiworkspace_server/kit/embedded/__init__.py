"""PostgreSQL, MongoDB and Redis from wheels, as child processes with their data under the server's data directory.

Each listens on a Unix socket in a directory that only the server's user can enter, never on a network. Acknowledged
writes are on disk: their settings save memory, but never a sync.
"""

from aiworkspace_server.kit.embedded.mongo import embedded_mongo, mongo_uri
from aiworkspace_server.kit.embedded.place import EmbeddedError, InUseError, running_sockets
from aiworkspace_server.kit.embedded.postgres import embedded_postgres, postgres_url
from aiworkspace_server.kit.embedded.redis import embedded_redis

__all__ = [
    "EmbeddedError",
    "InUseError",
    "embedded_mongo",
    "embedded_postgres",
    "embedded_redis",
    "mongo_uri",
    "postgres_url",
    "running_sockets",
]
