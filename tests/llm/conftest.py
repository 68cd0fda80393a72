"""The adapters as the server builds them, before the stand-in."""

from collections.abc import AsyncIterator, Iterator

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

CLOCKS = Clocks(connect_seconds=0.5, first_content_seconds=0.6, idle_seconds=0.3)


@pytest.fixture(scope="session", autouse=True)
def _no_proxy() -> Iterator[None]:
    """The stand-in is on this machine, whatever proxy the machine uses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield


@pytest.fixture
async def standin() -> AsyncIterator[Standin]:
    async with Standin() as standin:
        yield standin


def openai_provider(url: str, clocks: Clocks = CLOCKS) -> OpenAIProvider:
    return OpenAIProvider(OPENAI, api_key=OPENAI_KEY, base_url=f"{url}/v1", clocks=clocks)


def deepseek_provider(url: str, clocks: Clocks = CLOCKS) -> OpenAIProvider:
    return OpenAIProvider(DEEPSEEK, api_key=DEEPSEEK_KEY, base_url=f"{url}/v1", clocks=clocks)


def anthropic_provider(url: str, clocks: Clocks = CLOCKS) -> AnthropicProvider:
    return AnthropicProvider(api_key=ANTHROPIC_KEY, base_url=url, clocks=clocks)


@pytest.fixture
async def openai_wire(standin: Standin) -> AsyncIterator[Provider]:
    provider = openai_provider(standin.url)
    yield provider
    await provider.aclose()


@pytest.fixture
async def anthropic_wire(standin: Standin) -> AsyncIterator[Provider]:
    provider = anthropic_provider(standin.url)
    yield provider
    await provider.aclose()


@pytest.fixture(params=["openai", "anthropic"])
async def provider(request: pytest.FixtureRequest, standin: Standin) -> AsyncIterator[Provider]:
    """Each wire format in turn."""
    provider = openai_provider(standin.url) if request.param == "openai" else anthropic_provider(standin.url)
    yield provider
    await provider.aclose()
