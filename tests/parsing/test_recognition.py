"""Programs in the place of tesseract that are slow, missing, or left behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from aiworkspace_server.parsing.limits import Limits
from aiworkspace_server.parsing.parser import Parser
from tests.support import files
from tests.support.waiting import until_true


def sleeping_program(directory: Path) -> Path:
    """A program that never ends. It makes a file that is named after itself and its parent."""
    (directory / "running").mkdir()
    program = directory / "tesseract"
    name = f"f'{directory}/running/{{os.getpid()}}-{{os.getppid()}}'"
    program.write_text(f"#!{sys.executable}\nimport os, time\nos.close(os.open({name}, os.O_CREAT))\ntime.sleep(600)\n")
    program.chmod(0o700)
    return program


async def test_page_that_takes_too_long_is_unread_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "scan.pdf"
    path.write_bytes(files.pdf("text", files.Picture("picture"), "more"))
    parser = Parser(Limits(seconds=4), tesseract=str(sleeping_program(tmp_path)))
    parsed = await parser.parse(path, "scan.pdf")
    assert (parsed.text, parsed.unread_pages) == ("text\n\nmore", [2])
    assert len(list((tmp_path / "running").iterdir())) == 1


async def test_pages_are_unread_without_a_program_that_can_be_started(tmp_path: Path) -> None:
    path = tmp_path / "scan.pdf"
    path.write_bytes(files.pdf("text", *[files.Picture("picture")] * 3))
    parsed = await Parser(tesseract="/no/such/program").parse(path, "scan.pdf")
    assert (parsed.text, parsed.unread_pages) == ("text", [2, 3, 4])


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends processes with their parent")
async def test_helper_and_program_end_with_the_child(tmp_path: Path) -> None:
    program = sleeping_program(tmp_path)
    code = (
        "from aiworkspace_server.parsing.limits import Limits\n"
        "from aiworkspace_server.parsing.recognition import start_recognizer\n"
        f"start_recognizer({str(program)!r}, Limits())(b'picture')\n"
    )
    child = subprocess.Popen([sys.executable, "-I", "-c", code])
    (started,) = await until_true(lambda: list((tmp_path / "running").iterdir()))
    processes = [int(part) for part in started.name.split("-")]
    assert all(map(is_running, processes))
    child.kill()
    child.wait()
    await until_true(lambda: not any(map(is_running, processes)))


def is_running(process: int) -> bool:
    """Whether a process is there and has not ended: in a container, nobody may collect it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
