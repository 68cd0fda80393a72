"""Which models this server can use, and who runs them."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import structlog
from pydantic import SecretStr

from aiworkspace_server.settings import Deployment

from .base import ModelInfo, Provider, ProviderError
from .clock import Clocks
from .echo import EchoProvider

log = structlog.get_logger()


class UnknownModel(LookupError):
    """No provider of this server has a model with this id."""


class Registry:
    """The providers. Closing it closes them."""

    def __init__(self, providers: Sequence[Provider]) -> None:
        self._providers = {provider.name: provider for provider in providers}

    @classmethod
    def from_settings(cls, settings: Deployment) -> Self:
        """Those that have a key; the local one when its address is set; echo always."""
        return cls([EchoProvider(settings.echo_tokens_per_second), *_configured(settings)])

    async def resolve(self, model_id: str) -> tuple[Provider, str]:
        """Who runs a model, and what he calls it.

        Raises UnknownModel, and ProviderError when only a local server could know and it is down.
        """
        name, _, model = model_id.partition("/")
        provider = self._providers.get(name)
        if provider is None or not await provider.has(model):
            raise UnknownModel(model_id)
        return provider, model

    async def models(self) -> list[ModelInfo]:
        """Every model that can be asked, by id. A provider that cannot be reached is logged and left out."""
        lists = await asyncio.gather(*map(_models, self._providers.values()))
        return sorted((model for models in lists for model in models), key=lambda model: model.id)

    async def aclose(self) -> None:
        async with AsyncExitStack() as stack:
            for provider in self._providers.values():
                stack.push_async_callback(provider.aclose)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


async def _models(provider: Provider) -> Sequence[ModelInfo]:
    try:
        return await provider.models()
    except ProviderError as error:
        log.warning("models left out", provider=provider.name, kind=error.kind, error=error.message)
        return []


def _configured(settings: Deployment) -> Iterator[Provider]:
    """The SDKs are imported when they are needed: each takes a second and 25 MB."""
    clocks = Clocks(
        settings.provider_connect_seconds, settings.provider_first_token_seconds, settings.provider_idle_seconds
    )
    if key := _reveal(settings.openai_api_key):
        from .openai_wire import OPENAI, OpenAIProvider

        yield OpenAIProvider(OPENAI, api_key=key, base_url=settings.openai_base_url, clocks=clocks)
    if key := _reveal(settings.deepseek_api_key):
        from .openai_wire import DEEPSEEK, OpenAIProvider

        yield OpenAIProvider(DEEPSEEK, api_key=key, base_url=settings.deepseek_base_url, clocks=clocks)
    if key := _reveal(settings.anthropic_api_key):
        from .anthropic_wire import AnthropicProvider

        yield AnthropicProvider(api_key=key, base_url=settings.anthropic_base_url, clocks=clocks)
    if settings.local_model_base_url:
        from .local import LocalProvider

        key = _reveal(settings.local_model_api_key)
        yield LocalProvider(base_url=settings.local_model_base_url, api_key=key, clocks=clocks)


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value().strip() if secret else None
