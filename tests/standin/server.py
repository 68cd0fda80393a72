"""The stand-in's server: one aiohttp application, any free port, loopback only."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from aiworkspace_server.llm.base import TokenUsage

from .bill import Charge, count_words, texts_in
from .embeddings import EmbeddingScript, embeddings
from .formats import ChatFormat, Format, Kind, MessageFormat, chat_error, message_error
from .script import BYTES, COUNTED, Cut, ErrorEvent, HttpError, Script, Stall
from .strict import violation


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
    """`url` is where it listens, and the base URL for Anthropic's SDK; `openai_url` is that for OpenAI's."""

    def __init__(self) -> None:
        self._site = ""
        self.reset()

    @property
    def url(self) -> str:
        return self._site

    @property
    def openai_url(self) -> str:
        return f"{self._site}/v1"

    def reset(self) -> None:
        """Forgets scripts, requests and the bill."""
        self.received: list[Received] = []
        self.models: list[str] | None = ["llama-3", "qwen/qwen-3"]  # of GET /v1/models; None: an error 503
        self.models_asked = 0
        self.strict = False  # whether requests that the strictest providers refuse are refused
        self.refusals: dict[str, HttpError] = {}  # of GET /v1/models, by the key that asks
        self.bill: list[Charge] = []
        self.forget_scripts()

    def forget_scripts(self) -> None:
        """Answers every request with `Script()` or vectors again."""
        self.embeddings: list[EmbeddingScript] = []  # of POST /v1/embeddings: the next ones, then `EmbeddingScript()`
        self._scripts: dict[str, list[Script]] = {}
        self._answers: dict[tuple[str, str], list[Script]] = {}

    def script(self, model: str, *scripts: Script) -> None:
        """How to answer requests for a model from now on: by one after the other, then by the last for ever.

        Others get `Script()`.
        """
        self._scripts[model] = list(scripts)

    def answer(self, content: str, *scripts: Script, model: str = "") -> None:
        """The same for requests in which a person says this: those for the model, or all others."""
        self._answers[content, model] = list(scripts)

    async def quiet(self) -> None:
        """Waits until no request is in progress: then the bill is whole."""
        for received in list(self.received):
            await received.done.wait()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/embeddings", self._embed)
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
        key = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        if refusal := self.refusals.get(key):
            return web.json_response(chat_error(refusal, refusal.message.replace("{key}", key)), status=refusal.status)
        if self.models is None:
            return web.json_response({"error": {"message": "loading"}}, status=503)
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        received = await self._receive(request)
        include_usage = received.body.get("stream_options", {}).get("include_usage", False)
        return await self._answer(request, received, ChatFormat(received.body["model"], include_usage=include_usage))

    async def _embed(self, request: web.Request) -> web.Response:
        received = await self._receive(request)
        script = self.embeddings.pop(0) if self.embeddings else EmbeddingScript()
        try:
            if script.until:
                await script.until.wait()
            if script.error:
                return _refusal(script.error, received)
            return web.json_response(script.change(embeddings(received.body, numbers=script.numbers)))
        except asyncio.CancelledError:
            received.hung_up = True
            raise
        finally:
            received.done.set()

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
        script = _limited(_going_on(self._next(received.body), received.body), received.body)
        answer = _Answer(request, script, form)
        try:
            await asyncio.sleep(script.seconds_before)
            if script.until:
                await script.until.wait()
            if self.strict and (rule := violation(received.body)):
                return _refusal(HttpError(400, rule), received)
            if isinstance(script.fault, HttpError):
                return _refusal(script.fault, received)
            return await answer.play(_usage(script, received.body))
        except (asyncio.CancelledError, ConnectionError):
            received.hung_up = True
            raise
        finally:
            if answer.begun:
                self._charge(received, answer.usage(_counted(received.body, *answer.sent)))
            received.done.set()

    def _next(self, body: dict[str, Any]) -> Script:
        turns = [
            texts_in(message["content"])[-1] for message in reversed(body["messages"]) if message["role"] == "user"
        ]
        # Questions that got no answer stand in one turn with the next.
        said = [content for turn in turns for content in (turn, *reversed(turn.split("\n\n")))]
        keys = [(content, model) for content in said for model in (body["model"], "")]
        scripts = next((self._answers[key] for key in keys if key in self._answers), None)
        scripts = scripts or self._scripts.get(body["model"]) or [Script()]
        return scripts.pop(0) if len(scripts) > 1 else scripts[0]

    def _charge(self, received: Received, usage: TokenUsage) -> None:
        model = received.body["model"]
        family = "deepseek" if model.startswith("deepseek") else "openai"
        provider = "anthropic" if received.path.endswith("/messages") else family
        self.bill.append(Charge(provider, received.headers.get("x-client-request-id", ""), model, usage))


class _Answer:
    """One stream being sent."""

    def __init__(self, request: web.Request, script: Script, form: Format) -> None:
        self._request = request
        self._script = script
        self._form = form
        self._response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        self._unsent = b""
        self._reported: TokenUsage | None = None
        self.begun = False
        self.sent = [0, 0]  # tokens of thinking and of text

    def usage(self, counted: TokenUsage) -> TokenUsage:
        """What to charge: what was reported with the whole answer, if that can be true; else what was counted."""
        reported = self._reported
        return reported if reported and reported.plausible and reported.input_tokens else counted

    async def play(self, usage: TokenUsage | None) -> web.StreamResponse:
        await self._response.prepare(self._request)
        self.begun = True
        await self._send(*self._form.begin(usage))
        fault = self._script.fault
        said: list[tuple[Kind, str]] = [("thinking", text) for text in self._script.thinking]
        said += [("text", text) for text in self._script.tokens]
        for number, (kind, text) in enumerate(said):
            if fault is not None and not isinstance(fault, HttpError) and number == fault.after:
                break
            self.sent[kind == "text"] += 1
            await self._send(*self._form.say(kind, text))
            if isinstance(self._form, MessageFormat) and (cited := self._script.cited.get(self.sent[1] - 1)):
                await self._send(*self._form.cite(*cited))
            await self._pause()
        if fault is not None:
            return await self._fail()
        await self._send(*self._form.end(self._script.finish, usage))
        self._reported = usage
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
            with suppress(TimeoutError):
                enough = self._script.enough or asyncio.Event()
                await asyncio.wait_for(enough.wait(), self._script.seconds_per_token)

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


def _going_on(script: Script, body: dict[str, Any]) -> Script:
    said = sum(len(message["content"]) for message in body["messages"] if message["role"] == "assistant")
    if not (script.goes_on and said):
        return script
    lengths = accumulate(len(token) for token in script.tokens)
    return replace(script, tokens=[token for token, end in zip(script.tokens, lengths, strict=True) if end > said])


def _limited(script: Script, body: dict[str, Any]) -> Script:
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or 1_000_000
    thinking = script.thinking[:limit]
    tokens = script.tokens[: limit - len(thinking)]
    if len(tokens) == len(script.tokens):
        return script
    return replace(script, thinking=thinking, tokens=tokens, finish="length")


def _usage(script: Script, body: dict[str, Any]) -> TokenUsage | None:
    if script.usage == BYTES:
        return _by_bytes(body)
    return _counted(body, len(script.thinking), len(script.tokens)) if script.usage == COUNTED else script.usage


def _by_bytes(body: dict[str, Any]) -> TokenUsage:
    """A token for each byte and eight for each text, all written to the cache, and all the output that was allowed."""
    texts = [body.get("system", ""), *(text for message in body["messages"] for text in texts_in(message["content"]))]
    inputs = sum(len(text.encode()) + 8 for text in texts)
    return TokenUsage(inputs, 0, inputs, body.get("max_completion_tokens") or body["max_tokens"], 0)


def _counted(body: dict[str, Any], thinking: int, text: int) -> TokenUsage:
    texts = [body.get("system", ""), *(text for message in body["messages"] for text in texts_in(message["content"]))]
    return TokenUsage(count_words(texts), 0, 0, thinking + text, thinking)


def _refusal(error: HttpError, received: Received) -> web.Response:
    form = message_error if received.path.endswith("/messages") else chat_error
    body = form(error, error.message.replace("{key}", received.key))
    return web.json_response(body, status=error.status, headers=error.headers)
