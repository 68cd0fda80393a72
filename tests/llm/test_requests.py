"""Requests go out past the SDKs: with their headers, and with the same failures that they would tell."""

import encodings.aliases
import gzip
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import anthropic
import openai
import pytest
from aiohttp import web

from aiworkspace_server.llm.anthropic_wire import AnthropicProvider
from aiworkspace_server.llm.base import ProviderError
from aiworkspace_server.llm.failures import Failures
from aiworkspace_server.llm.openai_wire import OpenAIProvider

from .answers import answer, question
from .conftest import ANTHROPIC_KEY, OPENAI_KEY, anthropic_provider, openai_provider

Maker = Callable[[str], OpenAIProvider | AnthropicProvider]
MAKERS: list[Maker] = [openai_provider, anthropic_provider]
MESSAGE = {"message": "Too many.", "type": "rate_limit_error", "code": "slow_down"}
BODIES = {
    "nothing": b"",
    "text": "  Überlastet.\n".encode(),
    "a page": b"<html>Bad gateway</html>",
    "OpenAI's": json.dumps({"error": MESSAGE}).encode(),
    "Anthropic's": json.dumps({"type": "error", "error": MESSAGE, "request_id": "req_1"}).encode(),
    "an error in an error": json.dumps({"error": {"error": MESSAGE, "detail": "no"}}).encode(),
    "no error": json.dumps({"error": None, "message": "no"}).encode(),
    "an error that is a text": b'{"error": "model not found"}',
    "a detail": b'{"detail": "Not Found"}',
    "a list": json.dumps([{"error": MESSAGE}]).encode(),
    "a number": b"7",
    "no UTF-8": b'{"error": "\xff\xfe"}',
    "half a character": b'{"error": "\\ud83d"}',
    "a byte order mark": b'\xef\xbb\xbf{"error": "x"}',
    "half": b'{"error": {',
    "no numbers": b'{"error": {"message": "x", "code": NaN, "status": 1e999}}',
    "deep": b"[" * 50_000,
}
HEADERS = {
    "JSON": {"content-type": "application/json"},
    "latin": {"content-type": "application/json; charset=latin-1", "retry-after": "3"},
    "no such charset": {"content-type": "text/plain; charset=klingon", "retry-after-ms": "250"},
    "compressed": {"content-encoding": "gzip"},
}


@dataclass
class Server:
    """Answers every request with this, and keeps the headers of each."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    received: list[dict[str, str]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.received.append({name.lower(): value for name, value in request.headers.items()})
        body = gzip.compress(self.body) if "content-encoding" in self.headers else self.body
        return web.Response(status=self.status, headers=self.headers, body=body)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    # By name: no client keeps the cookies of a bare address.
    server.url = f"http://localhost:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


def told(error: ProviderError | None) -> tuple[object, ...]:
    assert error is not None
    return error.kind, error.message, error.retry_after, error.status, error.free


@pytest.mark.parametrize("headers", HEADERS)
async def test_an_error_status_is_told_as_the_sdks_read_it(server: Server, headers: str) -> None:
    server.headers = HEADERS[headers]
    by_chat, by_messages = openai_provider(server.url), anthropic_provider(server.url)
    async with (
        openai.AsyncOpenAI(api_key=OPENAI_KEY, base_url=f"{server.url}/v1", max_retries=0) as chat,
        anthropic.AsyncAnthropic(api_key=ANTHROPIC_KEY, base_url=server.url, max_retries=0) as messages,
    ):
        for name, body in BODIES.items():
            for server.status in (304, 400, 404, 429, 500):
                server.body = body
                with pytest.raises(openai.APIStatusError) as by_openai:
                    await chat.post("/chat/completions", cast_to=object, body={})
                expected = Failures("openai", [OPENAI_KEY]).from_status(
                    by_openai.value.status_code, by_openai.value.response.headers, by_openai.value.body
                )
                assert told((await answer(by_chat)).error) == told(expected), (name, server.status)
                with pytest.raises(anthropic.APIStatusError) as by_anthropic:
                    await messages.post("/v1/messages", cast_to=object, body={})
                expected = Failures("anthropic", [ANTHROPIC_KEY]).from_status(
                    by_anthropic.value.status_code, by_anthropic.value.response.headers, by_anthropic.value.body
                )
                assert told((await answer(by_messages)).error) == told(expected), (name, server.status)
    await by_chat.aclose()
    await by_messages.aclose()


async def test_the_headers_are_those_of_the_sdks(server: Server) -> None:
    server.body, server.headers = b"{}", {"content-type": "application/json"}
    for provider in (openai_provider(server.url), anthropic_provider(server.url)):
        await answer(provider)
        await provider.aclose()
    async with (
        openai.AsyncOpenAI(api_key=OPENAI_KEY, base_url=f"{server.url}/v1", max_retries=0) as chat,
        anthropic.AsyncAnthropic(api_key=ANTHROPIC_KEY, base_url=server.url, max_retries=0) as messages,
    ):
        await chat.post("/chat/completions", cast_to=object, body={})
        await messages.post("/v1/messages", cast_to=object, body={})
    # Of the connection, of one request, or of what the SDKs do on their own.
    own = {"connection", "content-length", "accept-encoding", "x-stainless-async", "x-stainless-retry-count"}
    own |= {"x-stainless-read-timeout", "x-stainless-timeout"}
    chosen = [{name: value for name, value in each.items() if name not in own} for each in server.received]
    assert chosen[:2] == chosen[2:]
    assert [each["accept-encoding"] for each in server.received[:2]] == ["identity"] * 2


@pytest.mark.parametrize("make", MAKERS)
async def test_what_is_set_for_one_key_is_not_sent_with_another(server: Server, make: Maker) -> None:
    server.headers = {"set-cookie": "who=first; Path=/"}
    provider = make(server.url)
    for key in ("sk-first-key", "sk-second-key"):
        other = provider.with_key(key)
        await answer(other)
        await other.check_key()
    await provider.aclose()
    assert len(server.received) == 4
    assert not any("cookie" in received for received in server.received)


@pytest.mark.parametrize("make", MAKERS)
async def test_a_request_is_sent_once_there_is_a_connection(server: Server, make: Maker) -> None:
    sent = []

    def on_sent() -> None:
        sent.append(url)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    for url in (nobody, server.url):
        provider = make(url)
        await answer(provider, replace(question("word " * 500_000), on_sent=on_sent))
        await provider.aclose()
    assert sent == [server.url]
    assert int(server.received[0]["content-length"]) > 2_500_000


async def test_an_error_status_is_read_whatever_charset_it_names(server: Server) -> None:
    provider, server.status, server.body = openai_provider(server.url), 400, b'{"error": {"message": "no \xff"}}'
    unreadable = []
    for charset in {*encodings.aliases.aliases.values(), "idna", "undefined", "unicode_escape"}:
        server.headers = {"content-type": f"application/json; charset={charset}"}
        error = (await answer(provider)).error
        if error is None or error.status != 400:
            unreadable.append(charset)
    assert unreadable == []
    await provider.aclose()
