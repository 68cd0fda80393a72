"""The links of a server: to its databases, to the provider and to its callers, each through a gate."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from urllib.parse import unquote, urlsplit

from tests.support.tcp_gate import TcpGate, tcp_gate

from .site import Site

NAMES = {
    "postgres": "PostgreSQL",
    "mongo": "MongoDB",
    "redis": "Redis",
    "provider": "the provider",
    "clients": "clients",
}


@dataclass
class Links:
    """`settings` lead a server through the gates. That of the clients gets its target when the server has started."""

    gates: Mapping[str, TcpGate]
    settings: Mapping[str, object]


@asynccontextmanager
async def links(site: Site, chance: Random) -> AsyncIterator[Links]:
    postgres, mongo, redis = (urlsplit(store.url) for store in (site.postgres, site.mongo, site.redis))
    targets: dict[str, int | Path] = {
        "postgres": Path(unquote(postgres.query.removeprefix("host="))) / ".s.PGSQL.5432",
        "mongo": Path(unquote(mongo.netloc)),
        "redis": Path(unquote(redis.path)),
        "provider": int(site.standin.url.rpartition(":")[2]),
        "clients": 0,
    }
    async with AsyncExitStack() as stack:
        gates = {name: await stack.enter_async_context(tcp_gate(target, chance)) for name, target in targets.items()}
        at = {name: f"127.0.0.1:{gate.port}" for name, gate in gates.items()}
        settings = {
            "database_url": f"postgresql+psycopg://{postgres.netloc}{at['postgres']}{postgres.path}",
            "mongo_uri": f"mongodb://{at['mongo']}{mongo.path}?{mongo.query}",
            "redis_url": f"redis://{at['redis']}",
            "openai_base_url": f"http://{at['provider']}/v1",
        }
        yield Links(gates, settings)
