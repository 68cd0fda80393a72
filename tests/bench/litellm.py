"""LiteLLM's proxy beside the product: the same questions over its HTTP interface, answered with the same events.

Its environment is .venv-peers, which `make bench-peers` makes. It runs as its documentation says for production, with
one worker, without a database, and without telling anybody of it.
"""

import asyncio
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import orjson

from aiworkspace.v1 import chat_pb2 as pb

from .http2 import Reply
from .provider import question
from .servers import Server, Site

_MODEL = "gpt-4o-mini"
_KEY = "sk-peer"
_START_SECONDS = 120.0
_CONTENT = re.compile(rb'"content":"((?:\d{6} )+)"')
_CONFIG = """
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "http://{provider}/v1", api_key: sk-bench}}
general_settings: {{master_key: {key}}}
litellm_settings: {{telemetry: false, set_verbose: false}}
"""


@contextmanager
def litellm(site: Site, provider: Server) -> Iterator[Server]:
    """The proxy on the server's core."""
    program = site.root / ".venv-peers" / "bin" / "litellm"
    if not program.exists():
        raise RuntimeError(f"{program} is missing: run make bench-peers, which installs it")
    config = site.directory / "litellm.yaml"
    config.write_text(_CONFIG.format(model=_MODEL, provider=provider.address, key=_KEY))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "HOME": str(site.directory)}
    command = [
        str(program),
        "--config",
        str(config),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--telemetry",
        "False",
    ]
    with site.log.open("ab") as log, site.cores.as_server():
        process = subprocess.Popen(command, env=environment, cwd=site.directory, stdout=log, stderr=log)
    try:
        _until_listening(process, port)
        yield Server(f"127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        process.wait()


def _until_listening(process: "subprocess.Popen[bytes]", port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError("LiteLLM did not start; see what --log FILE says")


class LiteLLMAsker:
    """Asks over as many connections as there are questions at a time."""

    def __init__(self, server: Server, *, stream: bool = True) -> None:
        self._server = server
        self._stream = stream
        self._idle: list[_Connection] = []
        self._connecting: set[asyncio.Task[None]] = set()

    def ask(self, tokens: int, reply: Reply, *, at_once: bool = False) -> None:
        """Sends a message whose answer has so many tokens, and tells the reply of it as SendMessage would."""
        message = {"role": "user", "content": question(tokens, at_once=at_once)}
        body = orjson.dumps({"model": _MODEL, "stream": self._stream, "messages": [message]})
        if self._idle:
            self._idle.pop().send(body, reply)
        else:
            task = asyncio.create_task(self._connect(body, reply))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, body: bytes, reply: Reply) -> None:
        host, _, port = self._server.address.partition(":")
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(self._server.address, self._idle), host, int(port)
        )
        connection.send(body, reply)


class _Connection(asyncio.Protocol):
    """HTTP/1.1, one request at a time."""

    def __init__(self, address: str, idle: "list[_Connection]") -> None:
        self._address = address
        self._idle = idle
        self._reply: Reply | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, body: bytes, reply: Reply) -> None:
        self._reply, self._received, self._read = reply, b"", 0
        self._transport.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: %b\r\nauthorization: Bearer %b\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (self._address.encode(), _KEY.encode(), len(body), body)
        )

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._reply is None:
            return
        for found in _CONTENT.finditer(self._received, self._read):
            self._read = found.end()
            self._tell(content_delta={"text": found[1].decode()})
        if self._ended():
            reply, self._reply = self._reply, None
            reply.message(_event(run_completed={}))
            self._idle.append(self)
            reply.end()

    def _tell(self, **event: Any) -> None:
        if self._reply:
            self._reply.message(_event(**event))

    def _ended(self) -> bool:
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"LiteLLM answered {head[:100]!r}: {body[:500]!r}")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._idle:
            self._idle.remove(self)
        if self._reply:
            self._reply.end()


def _event(**event: Any) -> bytes:
    return pb.SendMessageResponse(event=pb.ChatEvent(**event)).SerializeToString()
