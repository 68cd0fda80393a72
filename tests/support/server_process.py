"""A server in a process of its own, to be stopped, killed and started again."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiworkspace_server.settings import Settings
from tests.support.settings import environment


class ServerProcess:
    """`python -m aiworkspace_server serve` with embedded databases under one data directory, unless told otherwise."""

    def __init__(
        self, data_dir: Path, environment: Mapping[str, object], *options: str, stdin: int | None = None
    ) -> None:
        self._environment = {name.upper(): str(value) for name, value in environment.items()}
        self._environment |= {"DATA_DIR": str(data_dir), "PORT": "0", "LOG_FORMAT": "json"}
        self._data_dir = data_dir
        self._options = options
        self._stdin = stdin
        self._process: asyncio.subprocess.Process | None = None
        self.address = ""

    async def start(self, **environment: str) -> None:
        """Returns when the server takes calls."""
        self._data_dir.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "aiworkspace_server", "serve", *self._options),
                cwd=self._data_dir,
                env={**os.environ, **self._environment, **environment},
                stdin=self._stdin,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout
        line = (await asyncio.wait_for(self._process.stdout.readline(), 300)).decode()
        assert line.startswith("aiworkspace listening on "), line + self.log.read_text()
        self.address = line.split()[-1]

    async def ensure_running(self) -> "ServerProcess":
        """Starts it again where a test has ended it."""
        if not self.running:
            await self.start()
        return self

    async def command(self, *arguments: str) -> str:
        """What another command of the server prints, with the same settings. It may run or not."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "aiworkspace_server", *arguments),
            cwd=self._data_dir,
            env=os.environ | self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return output.decode()

    async def read_until(self, text: str) -> str:
        """What it prints from here to a line with this text."""
        assert self._process
        assert self._process.stdout
        read = ""
        async with asyncio.timeout(240):
            while text not in read:
                read += (await self._process.stdout.readline()).decode()
        return read

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def resident_bytes(self) -> int:
        """The memory that it has."""
        assert self._process
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    @property
    def log(self) -> Path:
        return self._data_dir / "server.log"

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def workers(self) -> list[int]:
        """Process ids of its workers."""
        assert self._process
        found = []
        for child in Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):
                if b"aiworkspace_server\0worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
        return found

    def send(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    async def end(self, number: signal.Signals) -> int:
        """Sends the signal and returns the exit code."""
        self.send(number)
        return await self.wait()

    async def wait(self, seconds: float = 300) -> int:
        assert self._process
        await asyncio.wait_for(self._process.communicate(), seconds)
        assert self._process.returncode is not None
        return self._process.returncode

    async def __aenter__(self) -> "ServerProcess":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.running:
            await self.end(signal.SIGTERM)


@asynccontextmanager
async def logging_everything(settings: Settings, output: Path) -> AsyncIterator[str]:
    """A server process that logs all it can. Gives its address; what it writes is in `output`."""
    talkative = {"LOG_LEVEL": "debug", "LOG_FORMAT": "json", "PYTHONPATH": os.pathsep.join(sys.path)}
    with output.open("wb") as file:
        command = sys.executable, "-m", "aiworkspace_server", "serve", "--migrate"
        process = await asyncio.create_subprocess_exec(
            *command, env=os.environ | environment(settings) | talkative, stdout=file, stderr=file
        )
    while "listening on " not in output.read_text():
        assert process.returncode is None, output.read_text()
        await asyncio.sleep(0.05)
    yield output.read_text().partition("listening on ")[2].split()[0]
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
