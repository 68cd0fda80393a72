"""The providers and models that this server can use."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import structlog
from pydantic import SecretStr

from aiworkspace_server.settings import Deployment

from .base import HostedProvider, ModelInfo, Provider
from .clock import Clocks, LocalClocks
from .echo import EchoProvider

HOSTED = ("openai", "deepseek", "anthropic")

log = structlog.get_logger()


class UnknownModel(LookupError):
    """No provider of this server has a model with this id."""


class Registry:
    """The providers. Closing it closes them."""

    def __init__(self, settings: Deployment, local: LocalClocks | None = None) -> None:
        """Create the providers that have a key, the local one if its address is set, and echo."""
        providers: list[Provider] = [EchoProvider(settings.echo_tokens_per_second), *_configured(settings, local)]
        self._settings = settings
        self.providers = {provider.name: provider for provider in providers}
        self._hosted: dict[str, HostedProvider] = {}  # templates for providers with other keys
        self._making = asyncio.Lock()

    async def resolve(self, model_id: str) -> tuple[Provider, str]:
        """Return the provider of a model and its name there. Raise UnknownModel."""
        name, _, model = model_id.partition("/")
        provider = self.providers.get(name)
        if provider is None or not await provider.has(model):
            raise UnknownModel(model_id)
        return provider, model

    def has_provider(self, name: str) -> bool:
        """Return whether there is a provider of this name, with the server's key if it needs one."""
        return name in self.providers

    async def with_key(self, name: str, api_key: str) -> HostedProvider:
        """Return a hosted provider with another key. The registry closes it."""
        async with self._making:
            if name not in self._hosted:  # in a thread, because importing its SDK may take a second
                self._hosted[name] = await asyncio.to_thread(_hosted, self._settings, name, "none")
        return self._hosted[name].with_key(api_key)

    async def models(self) -> list[ModelInfo]:
        """Return all known models, by id. Takes less than a second."""
        # In turn: only the local server is waited for, so that tasks would gain nothing.
        lists = [await _models(provider) for provider in self.providers.values()]
        return sorted((model for models in lists for model in models), key=lambda model: model.id)

    def away(self) -> list[str]:
        """Return the names of providers that did not answer the last request for their models."""
        return sorted(name for name, provider in self.providers.items() if provider.away)

    async def aclose(self) -> None:
        async with AsyncExitStack() as stack:
            for provider in (*self.providers.values(), *self._hosted.values()):
                stack.push_async_callback(provider.aclose)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


async def _models(provider: Provider) -> Sequence[ModelInfo]:
    """Return the models of a provider; none if it fails, so that those of others are still listed."""
    try:
        return await provider.models()
    except Exception:
        log.exception("models_left_out", provider=provider.name)
        return []


def _configured(settings: Deployment, local: LocalClocks | None) -> Iterator[Provider]:
    for name in HOSTED:
        if key := _reveal(getattr(settings, f"{name}_api_key")):
            yield _hosted(settings, name, key)
    if settings.local_model_base_url:
        from .local import LocalProvider

        key = _reveal(settings.local_model_api_key)
        yield LocalProvider(base_url=settings.local_model_base_url, api_key=key, clocks=_clocks(settings), local=local)


def _hosted(settings: Deployment, name: str, key: str) -> HostedProvider:
    """Return a hosted provider. SDKs are imported only when needed: each takes a second and 25 MB."""
    base_url, clocks = getattr(settings, f"{name}_base_url"), _clocks(settings)
    if name == "anthropic":
        from .anthropic_wire import AnthropicProvider

        return AnthropicProvider(api_key=key, base_url=base_url, clocks=clocks)
    from .openai_wire import DEEPSEEK, OPENAI, OpenAIProvider

    return OpenAIProvider(OPENAI if name == "openai" else DEEPSEEK, api_key=key, base_url=base_url, clocks=clocks)


def _clocks(settings: Deployment) -> Clocks:
    return Clocks(
        settings.provider_connect_seconds, settings.provider_first_token_seconds, settings.provider_idle_seconds
    )


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value().strip() if secret else None
