"""PostgreSQL, MongoDB and Redis from wheels, as children of this server and under its data directory.

Each is reached through a Unix socket in a directory that only the server's own user can enter; none listens on a
network. What is acknowledged is on disk: their settings save memory, never a sync.
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
