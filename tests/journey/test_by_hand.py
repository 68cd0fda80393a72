"""The commands that the README and a starting server print, run by the programs that they name."""

import asyncio
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from aiworkspace_server.__main__ import first_steps
from aiworkspace_server.app import App

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.skipif(not (BIN / "grpcurl").exists(), reason="grpcurl is packaged for Linux on x86-64 alone")


async def bash(script: str) -> str:
    """What the script prints. It ends with the first command that fails."""

    def run() -> subprocess.CompletedProcess[str]:
        command = ["bash", "-euo", "pipefail", "-c", script]
        environment = {"PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)

    ran = await asyncio.to_thread(run)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def here(text: str, app: App) -> str:
    """The same commands for this server and for an account that nobody has."""
    text = text.replace("127.0.0.1:50051", app.address).replace(" .venv/bin/buf", f" {BIN}/buf")
    return text.replace("me@example.com", f"{uuid.uuid4().hex[:12]}@example.com")


async def test_commands_of_the_readme_work(app: App) -> None:
    section = (ROOT / "README.md").read_text().partition("## Calling by hand")[2].partition("\n## ")[0]
    blocks = re.findall("```sh\n(.*?)```", section, re.DOTALL)
    assert sum(block.count("grpcurl -plaintext") for block in blocks) >= 6
    printed = await bash(here("\n".join(blocks), app))
    for expected in (
        "aiworkspace.v1.ChatService\n",
        "rpc SendMessage",
        '"access_token"',
        '"name": "Acme"',
        "echo/echo",
    ):
        assert expected in printed
    assert printed.count('"name": "Acme"') == 2, "by grpcurl and by buf curl"


async def test_commands_that_a_starting_server_prints_work(app: App) -> None:
    with_grpcurl, _, with_buf = first_steps(app.address, secure=False).partition("or with buf curl:")
    commands = "\n".join(line for line in with_grpcurl.splitlines() if line.startswith("  "))
    printed = await bash(here(commands, app))
    assert "aiworkspace.v1.AuthService\n" in printed
    assert '"access_token"' in printed
    commands = "\n".join(line for line in with_buf.splitlines() if line.startswith("  "))
    assert '"displayName":' in await bash(here(commands, app))
