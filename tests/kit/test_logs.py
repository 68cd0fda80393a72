"""Lines of the log: in order, complete, and urgent ones at once."""

import asyncio
import io
import json
import subprocess
import sys

from aiworkspace_server.kit.logs import Lines
from tests.support.waiting import until_true

PROGRAM = """
import structlog
from aiworkspace_server.kit import logs
logs.configure("json", "info", worker=2)
log = structlog.get_logger()
log.debug("unseen")
log.info("call", ms=0.5, odd={1})
try:
    raise ValueError("why")
except ValueError:
    log.exception("failed")
"""


async def test_lines_without_urgency_are_written_together_before_an_urgent_one() -> None:
    stream = io.BytesIO()
    lines = Lines(stream)
    lines.info(b"one")
    lines.info(b"two")
    assert stream.getvalue() == b""
    lines.error(b"three")
    assert stream.getvalue() == b"one\ntwo\nthree\n"
    lines.info(b"four")
    await until_true(lambda: stream.getvalue().endswith(b"four\n"))


async def test_many_lines_do_not_wait() -> None:
    stream = io.BytesIO()
    lines = Lines(stream)
    for number in range(1000):
        lines.info(b"%d" % number)
    assert stream.getvalue().count(b"\n") > 500
    lines.flush()
    assert stream.getvalue().split() == [b"%d" % number for number in range(1000)]


async def test_lines_of_threads_are_written_at_once() -> None:
    stream = io.BytesIO()
    lines = Lines(stream)
    lines.info(b"one")
    await asyncio.to_thread(lines.info, b"two")
    assert stream.getvalue() == b"one\ntwo\n"


def test_a_line_is_json_with_level_time_and_what_is_always_in_it() -> None:
    output = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True).stderr
    call, failed = map(json.loads, output.splitlines())
    assert (call.pop("timestamp")[-1], failed.pop("timestamp")[10]) == ("Z", "T")
    assert call == {"event": "call", "level": "info", "worker": 2, "ms": 0.5, "odd": "{1}"}
    assert "ValueError: why" in failed.pop("exception")
    assert failed == {"event": "failed", "level": "error", "worker": 2}
