"""`python -m tests.bench [--quick] [--only ROW] [--log FILE]`."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import uvloop

from aiworkspace_server.kit import logs

from . import (
    answers,
    audit,
    documents,
    first_token,
    history,
    isolation,
    memory,
    peers,
    storage,
    tokens,
    traces,
    unary,
    usage,
    workers,
)
from .machine import Cores, take_cores
from .servers import Site, site
from .table import Row, show

_ROWS: dict[str, Callable[[Site, bool], Awaitable[list[Row]]]] = {
    "unary": unary.measure,
    "traces": traces.measure,
    "isolation": isolation.measure,
    "answers": answers.measure,
    "workers": workers.measure,
    "tokens": tokens.measure,
    "first-token": first_token.measure,
    "history": history.measure,
    "memory": memory.measure,
    "audit": audit.measure,
    "documents": documents.measure,
    "storage": storage.measure,
    "usage": usage.measure,
    "peers": peers.measure,  # only when asked for: it needs LiteLLM
}


def main() -> None:
    arguments = _arguments()
    if sys.platform != "linux":
        sys.exit("error: the measurements need Linux: they pin cores and read CPU time from /proc.")
    logs.configure("console", "error")
    cores = take_cores()
    started = time.monotonic()
    rows = uvloop.run(_measure(cores, arguments.only or _ROWS.keys() - {"peers"}, arguments.quick, arguments.log))
    print(show(rows))
    print(f"\nPython {sys.version.split()[0]}, server on core {cores.server}, all else on {sorted(cores.load)}")
    print(f"{'quick, so rough' if arguments.quick else 'medians'}; took {time.monotonic() - started:.0f} s")


async def _measure(cores: Cores, names: Collection[str], quick: bool, log: Path) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="aiworkspace-bench-") as directory:
        async with site(cores, Path(directory), log) as where:
            for name in names:
                print(f"measuring {name} …", file=sys.stderr, flush=True)
                rows += await _ROWS[name](where, quick)
    return rows


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measures the server.")
    parser.add_argument("--quick", action="store_true", help="a few seconds per row")
    parser.add_argument("--only", action="append", choices=[*_ROWS], help="this row; may be repeated")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="where the servers' logs go")
    return parser.parse_args()


if __name__ == "__main__":
    main()
