"""tools/busy.py, with which the tests run beside other work."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.waiting import until_true

BUSY = Path(__file__).parents[1] / "tools" / "busy.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def burners(parent: int) -> list[int]:
    """Processes that were started to keep the machine busy, whether or not their parent still lives."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if line[1:2] == [b"-c"] and line[3:4] == [str(parent).encode()] and b"sum(range" in line[2]:
            found.append(int(path.name))
    return found


async def test_command_runs_beside_busy_processes_and_its_exit_code_is_returned() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, str(BUSY), "sh", "-c", "read line; exit 7", stdin=-1)
    await until_true(lambda: len(burners(process.pid)) == os.cpu_count())
    await process.communicate(b"go\n")
    assert process.returncode == 7
    assert burners(process.pid) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_busy_processes_end_with_whoever_started_them(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, str(BUSY), "sleep", "60")
    await until_true(lambda: len(burners(process.pid)) == os.cpu_count())
    process.send_signal(number)
    await process.wait()
    assert await until_true(lambda: burners(process.pid) == [])
