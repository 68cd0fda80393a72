"""PostgreSQL, MongoDB and Redis from wheels, as children of this server and under its data directory.

Each is reached through a Unix socket in a directory that only the server's own user can enter; none listens on a
network. What is acknowledged is on disk: their settings save memory, never a sync.
"""

from aiworkspace_server.kit.embedded.mongo import embedded_mongo
from aiworkspace_server.kit.embedded.place import EmbeddedError
from aiworkspace_server.kit.embedded.postgres import embedded_postgres
from aiworkspace_server.kit.embedded.redis import embedded_redis

__all__ = ["EmbeddedError", "embedded_mongo", "embedded_postgres", "embedded_redis"]
