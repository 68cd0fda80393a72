"""Child processes, and that the event loop of a server starts none by itself."""

import asyncio
import socket
from pathlib import Path
from subprocess import DEVNULL, PIPE

import aiworkspace_server
from aiworkspace_server.kit import children

_SERVER = Path(aiworkspace_server.__file__).parent


async def test_a_child_reads_a_file_and_its_output_and_errors_are_read(tmp_path: Path) -> None:
    (tmp_path / "input").write_text("walrus")
    with (tmp_path / "input").open("rb") as file:
        child = children.start("base64", "-e", "-", env={}, stdin=file, stdout=PIPE, stderr=PIPE)
    stdout, stderr = await child.stdout(), await child.stderr()
    assert await stdout.read() == b"d2FscnVz\n"
    assert await stderr.read() == b""
    assert (await child.wait(), child.is_running) == (0, False)
    child.close()


async def test_a_child_ends_when_its_socket_is_closed() -> None:
    here, there = socket.socketpair()
    with there:
        end = there.fileno()
        child = children.start("base64", "-e", "-", env={}, stdin=end, stdout=end, stderr=DEVNULL)
    await child.connect(here)
    assert child.is_running
    child.close()
    assert await asyncio.wait_for(child.wait(), 60) in (0, 1)  # base64 cannot write what it read


async def test_a_killed_child_says_by_what() -> None:
    child = children.start("asyncio", env={}, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL)
    child.kill()
    assert await child.wait() == -9


def test_only_the_parent_of_workers_starts_processes_on_its_loop() -> None:
    """uvloop forks for them. The parent of workers answers no calls."""
    sources = {path.relative_to(_SERVER).as_posix(): path.read_text() for path in _SERVER.rglob("*.py")}
    assert [name for name, source in sources.items() if "create_subprocess" in source] == ["workers.py"]
