"""The door for operators: HTTP with metrics for Prometheus, and the probes of an orchestrator. Not for the public.

It runs in a thread with an event loop of its own, so that it answers while that of the server stands still.
"""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
from aiohttp import web

from .kit import metrics
from .settings import Settings

log = structlog.get_logger("ops")

Reason = Callable[[], str]  # returns a reason against; an empty string if there is none


@dataclass(frozen=True, slots=True)
class OpsDoor:
    address: str  # host:port
    directory: Path  # for the metrics of all processes of this server


@contextmanager
def ops_door(settings: Settings, unready: Reason, failing: Reason) -> Iterator[OpsDoor | None]:
    """Answer until the context ends, if OPS_PORT is set. Raise OSError if its address cannot be used.

    The reasons are asked for in another thread.
    """
    if settings.ops_port is None:
        yield None
        return
    with (
        closing(_listen(settings.ops_host, settings.ops_port)) as listener,
        TemporaryDirectory(prefix="aiworkspace-metrics-", ignore_cleanup_errors=True) as folder,
        _answering(_app(Path(folder), unready, failing), listener),
    ):
        host, port = listener.getsockname()[:2]
        door = OpsDoor(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", Path(folder))
        log.info("ops_listening", address=door.address)
        yield door


@contextmanager
def _answering(app: web.Application, listener: socket.socket) -> Iterator[None]:
    loop, runner = asyncio.new_event_loop(), web.AppRunner(app, access_log=None)
    thread = threading.Thread(target=loop.run_forever, name="ops", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(_start(runner, listener), loop).result()
        yield
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((str(address[0]), port), family=family)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}. Set OPS_PORT or OPS_HOST.") from error


async def _start(runner: web.AppRunner, listener: socket.socket) -> None:
    await runner.setup()
    await web.SockSite(runner, listener).start()


def _app(directory: Path, unready: Reason, failing: Reason) -> web.Application:
    async def answer_metrics(request: web.Request) -> web.Response:
        return web.Response(body=metrics.read_files(directory), headers={"Content-Type": metrics.CONTENT_TYPE})

    def probe(reason: Reason) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            against = reason()
            return web.Response(text=f"{against or 'ok'}\n", status=503 if against else 200)

        return answer

    app = web.Application()
    app.router.add_get("/metrics", answer_metrics)
    app.router.add_get("/livez", probe(failing))
    app.router.add_get("/readyz", probe(unready))
    return app
