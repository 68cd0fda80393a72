"""`python -m tests.bench.search [--quick] [--only quality|scale] [--collection DIRECTORY]`."""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from aiworkspace_server.kit import logs
from aiworkspace_server.kit.embedded import embedded_mongo, embedded_postgres
from aiworkspace_server.kit.mongo import Mongo
from aiworkspace_server.migrate import migrate
from tests.support.postgres import close_idle
from tests.support.stores import Stores

from . import search_quality, search_scale
from .cranfield import load
from .table import Row, show

_COLLECTION = Path(__file__).parents[3] / "shared" / "data" / "cranfield"


def main() -> None:
    arguments = _arguments()
    if arguments.only != "scale" and not arguments.collection.is_dir():
        sys.exit(f"error: there is no {arguments.collection}: name the Cranfield collection with --collection.")
    logs.configure("console", "error")
    started = time.monotonic()
    print(show(asyncio.run(_measure(arguments))))
    print(
        f"\nPython {sys.version.split()[0]}; {'quick, so rough; ' * arguments.quick}"
        f"took {time.monotonic() - started:.0f} s"
    )


async def _measure(arguments: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="aiworkspace-bench-") as directory:
        async with embedded_postgres(Path(directory)) as postgres, embedded_mongo(Path(directory)) as uri:
            mongo = Mongo(uri)
            await migrate(postgres, mongo)
            await mongo.close()
            stores = Stores(postgres, uri, "")
            if arguments.only != "scale":
                rows += await search_quality.measure(stores, load(arguments.collection))
            if arguments.only != "quality":
                rows += await search_scale.measure(stores, arguments.quick)
            await close_idle()
    return rows


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.search", description="Measures search.")
    parser.add_argument("--quick", action="store_true", help="a fifth of the chunks, fewer tenants")
    parser.add_argument("--only", choices=["quality", "scale"], help="this part")
    parser.add_argument("--collection", type=Path, default=_COLLECTION, help="directory of the Cranfield collection")
    return parser.parse_args()


if __name__ == "__main__":
    main()
