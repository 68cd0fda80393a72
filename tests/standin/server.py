"""The stand-in's server: one aiohttp application, any free port, loopback only."""

import asyncio
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from aiworkspace_server.llm.base import TokenUsage

from .formats import ChatFormat, Format, Kind, MessageFormat, chat_error, message_error
from .script import COUNTED, Cut, ErrorEvent, HttpError, Script, Stall


@dataclass(slots=True)
class Received:
    """A request, and how it went."""

    path: str
    headers: dict[str, str]  # names in lower case
    body: dict[str, Any]
    connection: int  # the caller's port
    hung_up: bool = False  # the caller went away before the end
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> str:
        return self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")


class Standin:
    """`url` is where it listens; `openai_url` and `anthropic_url` are what the SDKs want for a base URL."""

    def __init__(self) -> None:
        self._site = ""
        self.reset()

    @property
    def url(self) -> str:
        return self._site

    @property
    def openai_url(self) -> str:
        return f"{self._site}/v1"

    @property
    def anthropic_url(self) -> str:
        return self._site

    def reset(self) -> None:
        """Forgets scripts and requests."""
        self.received: list[Received] = []
        self.models: list[str] | None = ["llama-3", "qwen/qwen-3"]  # of GET /v1/models; None: an error 503
        self.models_asked = 0
        self._scripts: dict[str, Script] = {}

    def script(self, model: str, script: Script) -> None:
        """How to answer requests for a model from now on. Others get `Script()`."""
        self._scripts[model] = script

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._site = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        self.models_asked += 1
        if self.models is None:
            return web.json_response({"error": {"message": "loading"}}, status=503)
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        received = await self._receive(request)
        include_usage = received.body.get("stream_options", {}).get("include_usage", False)
        return await self._answer(request, received, ChatFormat(received.body["model"], include_usage=include_usage))

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        received = await self._receive(request)
        return await self._answer(request, received, MessageFormat(received.body["model"]))

    async def _receive(self, request: web.Request) -> Received:
        headers = {name.lower(): value for name, value in request.headers.items()}
        port = request.transport.get_extra_info("peername")[1] if request.transport else 0
        received = Received(request.path, headers, await request.json(), port)
        self.received.append(received)
        return received

    async def _answer(self, request: web.Request, received: Received, form: Format) -> web.StreamResponse:
        script = _limited(self._scripts.get(received.body["model"], Script()), received.body)
        try:
            await asyncio.sleep(script.seconds_before)
            if isinstance(script.fault, HttpError):
                return _refusal(script.fault, received)
            return await _Answer(request, script, form).play(_usage(script, received.body))
        except (asyncio.CancelledError, ConnectionError):
            received.hung_up = True
            raise
        finally:
            received.done.set()


class _Answer:
    """One stream being sent."""

    def __init__(self, request: web.Request, script: Script, form: Format) -> None:
        self._request = request
        self._script = script
        self._form = form
        self._response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        self._unsent = b""

    async def play(self, usage: TokenUsage | None) -> web.StreamResponse:
        await self._response.prepare(self._request)
        await self._send(*self._form.begin(usage))
        fault = self._script.fault
        said: list[tuple[Kind, str]] = [("thinking", text) for text in self._script.thinking]
        said += [("text", text) for text in self._script.tokens]
        for number, (kind, text) in enumerate(said):
            if fault is not None and not isinstance(fault, HttpError) and number == fault.after:
                break
            await self._send(*self._form.say(kind, text))
            await self._pause()
        if fault is not None:
            return await self._fail()
        await self._send(*self._form.end(self._script.finish, usage))
        await self._flush()
        return self._response

    async def _fail(self) -> web.StreamResponse:
        match self._script.fault:
            case ErrorEvent() as error:
                await self._send(self._form.error(error))
            case Stall() as stall:
                await self._stall(stall)
        await self._flush()
        if isinstance(self._script.fault, Cut) and not self._script.fault.clean and self._request.transport:
            self._request.transport.close()
        return self._response

    async def _stall(self, stall: Stall) -> None:
        await self._flush()
        while True:
            await asyncio.sleep(stall.ping_seconds or 3600)
            await self._send(self._form.ping())
            await self._flush()

    async def _pause(self) -> None:
        if self._script.seconds_per_token:
            await self._flush()
            await asyncio.sleep(self._script.seconds_per_token)

    async def _send(self, *events: str) -> None:
        self._unsent += "".join(events).replace("\n", self._script.newline).encode()
        size = self._script.piece_bytes or len(self._unsent)
        while self._unsent and len(self._unsent) >= size:
            await self._write(size)

    async def _flush(self) -> None:
        if self._unsent:
            await self._write(len(self._unsent))

    async def _write(self, size: int) -> None:
        piece, self._unsent = self._unsent[:size], self._unsent[size:]
        await self._response.write(piece)
        await asyncio.sleep(0)  # lets the piece arrive on its own


def _limited(script: Script, body: dict[str, Any]) -> Script:
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 1_000_000
    thinking = script.thinking[:limit]
    tokens = script.tokens[: limit - len(thinking)]
    if len(tokens) == len(script.tokens):
        return script
    return replace(script, thinking=thinking, tokens=tokens, finish="length")


def _usage(script: Script, body: dict[str, Any]) -> TokenUsage | None:
    if script.usage != COUNTED:
        return script.usage
    texts = [body.get("system", ""), *(message["content"] for message in body["messages"])]
    thinking = len(script.thinking)
    return TokenUsage(sum(len(text.split()) for text in texts), 0, 0, thinking + len(script.tokens), thinking)


def _refusal(error: HttpError, received: Received) -> web.Response:
    form = message_error if received.path.endswith("/messages") else chat_error
    body = form(error, error.message.replace("{key}", received.key))
    return web.json_response(body, status=error.status, headers=error.headers)
