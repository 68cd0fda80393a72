"""`python tools/busy.py COMMAND...`: run a command while every core of the machine is kept busy beside it."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from types import FrameType

# Ends by itself when its parent has died.
_BURN = """
import os, sys
parent = int(sys.argv[1])
while os.getppid() == parent:
    sum(range(200_000))
"""


def main() -> int:
    if len(sys.argv) < 2:
        sys.exit("usage: python tools/busy.py COMMAND...")
    signal.signal(signal.SIGTERM, _end)
    with ExitStack() as stack:
        for _ in range(os.cpu_count() or 1):
            burner = stack.enter_context(subprocess.Popen([sys.executable, "-c", _BURN, str(os.getpid())]))
            stack.callback(burner.kill)
        return subprocess.call(sys.argv[1:])


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
