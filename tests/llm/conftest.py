"""The adapters as the server builds them, before the stand-in."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiworkspace_server.llm.anthropic_wire import AnthropicProvider
from aiworkspace_server.llm.base import Provider
from aiworkspace_server.llm.clock import Clocks
from aiworkspace_server.llm.openai_wire import DEEPSEEK, OPENAI, OpenAIProvider
from tests.standin import Standin

# Canaries: what must not appear anywhere.
OPENAI_KEY = "sk-proj-Qk7vR2mXw9LtZb4N8cYd"
ANTHROPIC_KEY = "sk-ant-api03-Jh5pTs8WqVe3Ku6MrGx"
DEEPSEEK_KEY = "sk-7f3e9d1c5b2a8046"

PATIENT = Clocks(connect_seconds=30, first_content_seconds=60, idle_seconds=60)
HURRIED = Clocks(connect_seconds=5, first_content_seconds=1.5, idle_seconds=1.0)


@pytest.fixture(autouse=True)
def _fresh(fresh_standin: None) -> None:
    """Each test begins with a stand-in without scripts and requests."""


def openai_provider(url: str, clocks: Clocks = PATIENT) -> OpenAIProvider:
    return OpenAIProvider(OPENAI, api_key=OPENAI_KEY, base_url=f"{url}/v1", clocks=clocks)


def deepseek_provider(url: str, clocks: Clocks = PATIENT) -> OpenAIProvider:
    return OpenAIProvider(DEEPSEEK, api_key=DEEPSEEK_KEY, base_url=f"{url}/v1", clocks=clocks)


def anthropic_provider(url: str, clocks: Clocks = PATIENT) -> AnthropicProvider:
    return AnthropicProvider(api_key=ANTHROPIC_KEY, base_url=url, clocks=clocks)


@asynccontextmanager
async def listening(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]) -> AsyncIterator[str]:
    """The address of a server that treats its connections like this."""
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


# One of each for all tests: the certificates that a provider loads take longer than most tests.


@pytest.fixture(scope="session")
async def openai_wire(standin: Standin) -> AsyncIterator[Provider]:
    provider = openai_provider(standin.url)
    yield provider
    await provider.aclose()


@pytest.fixture(scope="session")
async def anthropic_wire(standin: Standin) -> AsyncIterator[Provider]:
    provider = anthropic_provider(standin.url)
    yield provider
    await provider.aclose()


@pytest.fixture(scope="session")
async def _hurried(standin: Standin) -> AsyncIterator[dict[str, Provider]]:
    providers: list[Provider] = [
        openai_provider(standin.url, HURRIED),
        anthropic_provider(standin.url, HURRIED),
    ]
    yield {provider.name: provider for provider in providers}
    for provider in providers:
        await provider.aclose()


@pytest.fixture(params=["openai", "anthropic"])
def provider(request: pytest.FixtureRequest, openai_wire: Provider, anthropic_wire: Provider) -> Provider:
    """Each wire format in turn."""
    return openai_wire if request.param == "openai" else anthropic_wire


@pytest.fixture(params=["openai", "anthropic"])
def hurried(request: pytest.FixtureRequest, _hurried: dict[str, Provider]) -> Provider:
    """Each wire format in turn, with short clocks."""
    return _hurried[request.param]
