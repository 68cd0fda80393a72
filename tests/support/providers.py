"""Providers of a running server that are to behave differently for one test."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest

from aiworkspace_server.app import App
from aiworkspace_server.llm.clock import Clocks
from aiworkspace_server.llm.openai_wire import OPENAI, OpenAIProvider


def use_clocks(app: App, clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in app.registry.providers.values():
        monkeypatch.setattr(provider, "clocks", clocks, raising=False)


@asynccontextmanager
async def openai_at(app: App, base_url: str) -> AsyncIterator[None]:
    """The server looks for OpenAI at another address while the context lasts."""
    clocks = Clocks(connect_seconds=5, first_content_seconds=5, idle_seconds=5)
    moved = OpenAIProvider(OPENAI, api_key="sk-openai-canary", clocks=clocks, base_url=base_url)
    before, app.registry.providers["openai"] = app.registry.providers["openai"], moved
    try:
        yield
    finally:
        app.registry.providers["openai"] = before
        await moved.aclose()


@contextmanager
def full_queue() -> Iterator[str]:
    """The address of a socket that takes no more connections and refuses none."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
