"""Sends requests over the connections of an SDK's HTTP client, past its layers, which cost four times as much."""

import ssl
from collections.abc import Callable
from typing import Protocol, cast

import aiohttp
import httpx2
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict
from yarl import URL


def _ignore() -> None:
    """Nobody waits for the first byte of this request."""


class _Transport(Protocol):
    """What both SDKs' copies of the aiohttp transport have."""

    client: object  # the session, or what makes it when it is first needed
    ssl_context: ssl.SSLContext
    limits: httpx2.Limits
    proxy: httpx2.Proxy | None


class Connections:
    """The connections to one address that all keys share, with the proxy and the certificates of the HTTP client."""

    def __init__(self, http: httpx2.AsyncClient, url: httpx2.URL, connect_seconds: float) -> None:
        """The HTTP client has to be the SDK's own over aiohttp. Its other requests use the same connections."""
        self._url = URL(str(url))
        self._transport = cast(_Transport, http._transport_for_url(url))
        self._transport.client = self._new_session
        self._session: aiohttp.ClientSession | None = None
        self._timeout = aiohttp.ClientTimeout(sock_connect=connect_seconds, connect=connect_seconds)

    async def post(
        self, headers: CIMultiDict[str], body: bytes, request_id: str = "", on_sent: Callable[[], None] = _ignore
    ) -> aiohttp.ClientResponse:
        """Send a body. Return the response, whatever its status, with its body unread.

        Redirects are not followed. The request's id is in the provider's log, so that bills can be compared. `on_sent`
        is called when the first byte is sent.
        """
        if request_id:
            headers = headers.copy()
            headers["X-Client-Request-Id"] = request_id
        proxy = self._transport.proxy
        return await self._open().request(
            "POST",
            self._url,
            headers=headers,
            data=_SentBody(body, on_sent),
            allow_redirects=False,
            timeout=self._timeout,
            proxy=str(proxy.url) if proxy else None,
            proxy_auth=aiohttp.BasicAuth(*proxy.auth) if proxy and proxy.auth else None,
            proxy_headers=proxy.headers if proxy else None,
        )

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            made = self._transport.client
            self._session = made if isinstance(made, aiohttp.ClientSession) else self._new_session()
            self._transport.client = self._session  # which closes it
        return self._session

    def _new_session(self) -> aiohttp.ClientSession:
        """Return a session as the transport would make it, but without cookies.

        Cookies set for one organization's key must not be sent with another's.
        """
        limits = self._transport.limits
        connector = aiohttp.TCPConnector(
            limit=limits.max_connections or 0,
            keepalive_timeout=limits.keepalive_expiry,
            ssl=self._transport.ssl_context,
        )
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


class _SentBody(aiohttp.Payload):
    """The body of a request. It is written when the connection is established, which is when sending starts."""

    _autoclose = True

    def __init__(self, body: bytes, on_sent: Callable[[], None]) -> None:
        super().__init__(body, content_type="application/json")
        self._size = len(body)
        self._on_sent = on_sent

    async def write(self, writer: AbstractStreamWriter) -> None:
        self._on_sent()
        await writer.write(self._value)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        text: str = self._value.decode(encoding, errors)
        return text
