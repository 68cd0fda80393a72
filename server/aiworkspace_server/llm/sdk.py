"""What providers have in common that are reached through an SDK's HTTP client, whatever the wire format."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Generic, Protocol, Self, TypeVar

import aiohttp
import httpx2
from multidict import CIMultiDict

from . import catalog
from .base import ModelInfo, ModelRequest
from .clock import Clocks
from .connections import Connections
from .failures import Failures
from .http import http_client
from .wire import TRANSPORT_ERRORS, read_error


class _Client(Protocol):
    @property
    def base_url(self) -> httpx2.URL: ...

    @property
    def auth_headers(self) -> Mapping[str, str]: ...

    @property
    def default_headers(self) -> Mapping[str, object]: ...

    async def close(self) -> None: ...


ClientT = TypeVar("ClientT", bound=_Client)


class SdkProvider(ABC, Generic[ClientT]):
    """A provider with a key, connections that all keys share, and the models of the catalog."""

    def __init__(
        self,
        name: str,
        *,
        api_key: str,
        base_url: str,
        path: str,
        clocks: Clocks,
        connect: Callable[..., httpx2.AsyncClient],
    ) -> None:
        """`path` is where answers are requested; `connect` is the SDK's own class of HTTP clients."""
        self.name = name
        self.clocks = clocks
        self._base_url = base_url
        self._http = http_client(connect, base_url, clocks)
        self._use(api_key)
        base = self._client.base_url
        url = base.copy_with(raw_path=base.raw_path + path.encode())
        self._connections = Connections(self._http, url, clocks.connect_seconds)

    def with_key(self, api_key: str) -> Self:
        other = copy(self)
        other._use(api_key)
        return other

    def _use(self, api_key: str) -> None:
        self._failures = Failures(self.name, [api_key])
        self._client = self._new_client(api_key)
        named = {**self._client.auth_headers, **self._client.default_headers}
        # The other values mark headers that are left out.
        self._headers = CIMultiDict({name: value for name, value in named.items() if isinstance(value, str)})

    @abstractmethod
    def _new_client(self, api_key: str) -> ClientT:
        """Return the SDK's client for a key, which sends over `_http` and takes no settings from the environment."""

    async def _post(self, body: bytes, request: ModelRequest) -> aiohttp.ClientResponse:
        """Send the SDK's headers and a body. Return the response with its body unread. Raises ProviderError.

        The SDK's own `post` takes longer than everything else on the way to the provider.
        """
        try:
            response = await self._connections.post(self._headers, body, request.request_id, request.on_sent)
        except TRANSPORT_ERRORS as error:
            failure = self._failures.from_connection(error)
        else:
            if 200 <= response.status < 300:
                return response
            said = self._error(await read_error(response, self.clocks.error_seconds))
            failure = self._failures.from_status(response.status, response.headers, said)
        raise failure

    def _error(self, body: object) -> object:
        """Return what the SDK takes for the error in the body of an error status."""
        return body

    @property
    def away(self) -> bool:
        return False

    async def models(self) -> Sequence[ModelInfo]:
        return catalog.models(self.name)

    async def has(self, model: str) -> bool:
        return self.knows(model)

    def knows(self, model: str) -> bool:
        return model in catalog.names(self.name)

    def context_tokens(self, model: str) -> int | None:
        return catalog.context_tokens(self.name, model)

    async def aclose(self) -> None:
        await self._client.close()
