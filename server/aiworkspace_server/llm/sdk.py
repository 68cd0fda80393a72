"""What providers have in common whose SDK sends the requests, whatever the wire format."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from typing import Generic, Protocol, Self, TypeVar

import httpx2

from . import catalog
from .base import ModelInfo
from .clock import Clocks
from .failures import Failures
from .http import http_client


class _Closable(Protocol):
    async def close(self) -> None: ...


ClientT = TypeVar("ClientT", bound=_Closable)


class SdkProvider(ABC, Generic[ClientT]):
    """A provider with a key, connections that all keys share, and the models of the catalog."""

    def __init__(
        self, name: str, *, api_key: str, base_url: str, clocks: Clocks, connect: Callable[..., httpx2.AsyncClient]
    ) -> None:
        """`connect` is the SDK's own class of HTTP clients."""
        self.name = name
        self.clocks = clocks
        self._base_url = base_url
        self._http = http_client(connect, base_url, clocks)
        self._use(api_key)

    def with_key(self, api_key: str) -> Self:
        other = copy(self)
        other._use(api_key)
        return other

    def _use(self, api_key: str) -> None:
        self._failures = Failures(self.name, [api_key])
        self._client = self._new_client(api_key)

    @abstractmethod
    def _new_client(self, api_key: str) -> ClientT:
        """Return the SDK's client for a key, which sends over `_http` and takes no settings from the environment."""

    @property
    def away(self) -> bool:
        return False

    async def models(self) -> Sequence[ModelInfo]:
        return catalog.models(self.name)

    async def has(self, model: str) -> bool:
        return model in catalog.names(self.name)

    def context_tokens(self, model: str) -> int | None:
        return catalog.context_tokens(self.name, model)

    async def aclose(self) -> None:
        await self._client.close()
