"""The processes that a measurement needs, and the environment that the server under test runs in."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from aiworkspace_server.kit.embedded import embedded_mongo, embedded_postgres, embedded_redis
from aiworkspace_server.settings import Settings

from .machine import Cores

_ROOT = Path(__file__).parents[2]
_STOP_SECONDS = 20
SETTINGS = {
    "PORT": "0",
    "LOG_FORMAT": "json",
    "LOG_LEVEL": "info",
    "RATE_LIMIT_FACTOR": "100000",
    "PROVIDER_CONCURRENCY": "100000",
    "ORG_CONCURRENCY": "100000",
    "PASSWORD_HASH_COST": "10",
    "REGISTRATION": "open",
    "REQUIRE_VERIFIED_EMAIL": "false",
    "SHUTDOWN_SECONDS": "0.5",
    "JWT_SECRET": "access-tokens-Xo4vKq7yPz0rGm2sLw8t",
    "JWT_REFRESH_SECRET": "refresh-tokens-Bd1hNj5uQe9aVc3fRk6i",
    "PASSWORD_PEPPER": "pepper-Zt8wHs2xMg4pYl7oJb0nEv5kCq1d",
    "ENCRYPTION_SECRET": "encryption-Gh3pWs8yVn5bRk0dLt6zQm",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A process that listens."""

    address: str  # host:port
    pid: int


@dataclass(frozen=True, slots=True)
class Site:
    """Where servers are started."""

    cores: Cores
    directory: Path  # of their own
    stores: Mapping[str, str]  # settings that name the databases
    redis_url: str  # for servers with several workers
    log: Path  # takes what they write to standard error
    root: Path = _ROOT  # of the project

    def empty(self) -> AbstractContextManager[Server]:
        """The reference, on the server's core."""
        return self._running("tests.bench.empty", {}, self.cores.as_server())

    def provider(self) -> AbstractContextManager[Server]:
        return self._running("tests.bench.provider", {}, nullcontext())

    def server(
        self, provider: Server | None = None, workers: int = 1, collector: str = ""
    ) -> AbstractContextManager[Server]:
        """The server under test, on its core; with OpenAI's models when there is somebody to play OpenAI.

        `collector`: the URL to which it sends traces, if any.
        """
        settings = {**SETTINGS, **self.stores}
        if collector:
            settings |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector, "OTEL_TRACES_SAMPLER_ARG": "0.01"}
        if provider:
            settings |= {"OPENAI_API_KEY": "sk-bench", "OPENAI_BASE_URL": f"http://{provider.address}/v1"}
        if workers > 1:
            settings |= {"REDIS_URL": self.redis_url}
        command = f"aiworkspace_server serve --migrate --workers {workers}"
        return self._running(command, settings, self.cores.as_server())

    @contextmanager
    def _running(
        self, command: str, settings: Mapping[str, str], place: AbstractContextManager[None]
    ) -> Iterator[Server]:
        with self.log.open("ab") as log, place:
            process = subprocess.Popen(
                [sys.executable, "-m", *command.split()],
                cwd=self.directory,
                env={**_environment(), **settings},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            yield Server(self._address(process), process.pid)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()

    def _address(self, process: "subprocess.Popen[str]") -> str:
        """From the line that says where it listens."""
        assert process.stdout
        for line in process.stdout:
            if " listening on " in line:
                return line.split()[-1]
        raise RuntimeError(f"{process.args!r} did not start; see what --log FILE says")


@asynccontextmanager
async def site(cores: Cores, directory: Path, log: Path) -> AsyncIterator[Site]:
    """With databases on the load's cores, as they are on other machines in production."""
    async with AsyncExitStack() as stack:
        stores = {
            "DATABASE_URL": await stack.enter_async_context(embedded_postgres(directory)),
            "MONGO_URI": await stack.enter_async_context(embedded_mongo(directory)),
            "ORG_ALLOWANCE_USD": "unlimited",
        }
        yield Site(cores, directory, stores, await stack.enter_async_context(embedded_redis(directory)), log)


def _environment() -> dict[str, str]:
    """The present one without the settings and keys of whoever measures."""
    ours = {name.upper() for name in Settings.model_fields}
    roots = [str(_ROOT / name) for name in ("", "server", "client", "gen")]
    return {name: value for name, value in os.environ.items() if name not in ours} | {
        "PYTHONPATH": os.pathsep.join(roots)
    }
