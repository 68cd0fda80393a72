"""`python -m tests.faults [--only NAME] [--seed N] [--list]`: everything that can break, one after the other."""

import argparse
import logging
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from random import Random

import uvloop

from aiworkspace_server.kit import logs
from aiworkspace_server.settings import Settings

from .experiments import EXPERIMENTS
from .site import Site, site
from .table import HEAD, Row, line, show_faults, total
from .verdict import Skipped

_END_SECONDS = 30.0  # also on a machine with other work to do; the table shows how long it took


def main() -> int:
    arguments = _arguments()
    if sys.platform != "linux":
        sys.exit("error: the experiments need Linux: they stop and kill processes that they find in /proc.")
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)  # the experiments have settings of their own
    logs.configure("console", "error")
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)  # that callers hang up is what the stand-in is for
    names = [name for name in EXPERIMENTS if all(word in name for word in arguments.only or ())]
    if not names:
        sys.exit("error: no experiment has this in its name; --list shows them all.")
    if arguments.list:
        print(*names, sep="\n")
        return 0
    return uvloop.run(_run(names, arguments.seed))


async def _run(names: Sequence[str], seed: int) -> int:
    started = time.monotonic()
    rows: dict[str, Row] = {}
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory(prefix="aiworkspace-faults-") as directory:
        async with site(Path(directory), _END_SECONDS) as where:
            for name in names:
                rows[name] = await _experiment(where, name, seed)
                print(line(name, rows[name]), flush=True)
    print(total(rows))
    print(f"\nseed {seed}, {len(rows)} experiments, {time.monotonic() - started:.0f} s")
    return show_faults(rows)


async def _experiment(where: Site, name: str, seed: int) -> Row:
    """None when it could not be carried through. The name is part of the seed: each is the same on its own."""
    try:
        return await EXPERIMENTS[name](where, Random(f"{seed} {name}"))
    except Skipped as why:
        return why
    except Exception:
        traceback.print_exc()
        return None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Breaks the server and what it needs.")
    parser.add_argument("--only", action="append", help="those with this in their names; repeated, with all of it")
    parser.add_argument("--seed", type=int, default=1, help="of what is left to chance")
    parser.add_argument("--list", action="store_true", help="names alone")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
