"""The one client for URLs that callers name: web pages, webhooks.

Names are resolved once for each request, and the connection goes to an address that was checked, so that a second
answer of the DNS changes nothing. Redirects are requests of their own, checked from the start. Connections are always
direct: a proxy would resolve names itself, so that HTTP_PROXY and its like are ignored here.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import NoReturn
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from .egress_policy import AddressPolicy, EgressError, EgressReason, IpNetwork, Target, not_public, parse_target
from .inflate import Inflater, UnsupportedEncoding

_CONCURRENCY = 32
_LOOKUPS = 8  # threads
_CONNECT_SECONDS = 10.0
_REDIRECTS = {301, 302, 303, 307, 308}
_READ_BYTES = 64 << 10
_HEADERS = {"User-Agent": "aiworkspace", "Accept": "*/*", "Accept-Encoding": "gzip, deflate"}
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+", re.IGNORECASE | re.ASCII)
_CHARSET = re.compile(r""";\s*charset\s*=\s*["']?([a-z0-9_.:+-]+)["']?\s*(?:;|$)""", re.IGNORECASE | re.ASCII)

Resolve = Callable[[str], Awaitable[Sequence[str]]]  # the addresses of a host name; raises OSError


@dataclass(frozen=True, slots=True)
class EgressLimits:
    """Of one request with its redirects. `response_bytes` is the size of the decoded body."""

    response_bytes: int
    seconds: float = 30
    redirects: int = 5


@dataclass(frozen=True, slots=True)
class EgressReply:
    """A response of which only the head was read."""

    status: int
    retry_after: str  # the header, or empty


@dataclass(frozen=True, slots=True)
class EgressResponse:
    """A response whose body is complete and decoded."""

    url: str  # after redirects
    status: int
    media_type: str  # in lower case, without parameters; empty if the server sent none
    charset: str  # of the Content-Type header, or empty
    body: bytes


class Egress:
    """Sends requests to the public internet. All methods raise EgressError."""

    def __init__(
        self,
        allowed_networks: Sequence[IpNetwork],
        *,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        concurrency: int = _CONCURRENCY,
        lookups: int = _LOOKUPS,
    ) -> None:
        """`allowed_networks` are not public and allowed nevertheless. `resolve` and `tls` replace the system's.

        Requests wait for each other from `concurrency` on, and for DNS servers from `lookups` on. Where one caller's
        hosts must not delay another's, both have to be as many as the caller of this client ever sends at once.
        """
        self._policy = AddressPolicy(allowed_networks)
        self._threads = ThreadPoolExecutor(lookups, "egress-dns")
        self._resolve = resolve or self._look_up
        self._tls = tls or _system_tls()
        self._slots = asyncio.Semaphore(concurrency)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def get(self, url: str, limits: EgressLimits) -> EgressResponse:
        """Request a page, and follow its redirects. Any final status is returned."""
        target = parse_target(url)
        async with self._limited(limits.seconds):
            for _ in range(limits.redirects + 1):
                async with self._requested("GET", target, _HEADERS, None) as response:
                    location = response.headers.get("Location")
                    if response.status not in _REDIRECTS or location is None:
                        return await _read(target, response, limits.response_bytes)
                target = _redirected(target, location)
        raise EgressError(EgressReason.TOO_MANY_REDIRECTS, f"redirects more than {limits.redirects} times")

    async def check(self, url: str, seconds: float) -> None:
        """Raise what a request to this URL would raise before it connects."""
        target = parse_target(url)
        async with self._limited(seconds):
            self._policy.vet(target, await self._addresses(target.host))

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> EgressReply:
        """Send a body, and return what the response begins with. The rest of it is not read.

        Redirects are returned, not followed: they would carry the body to where nobody meant it to go.
        """
        target = parse_target(url)
        requested = self._requested("POST", target, {**_HEADERS, **headers}, body)
        async with self._limited(seconds), requested as response:
            return EgressReply(response.status, response.headers.get("Retry-After", ""))

    @asynccontextmanager
    async def _limited(self, seconds: float) -> AsyncIterator[None]:
        """Hold a slot, limit the time, and translate what goes wrong."""
        try:
            async with asyncio.timeout(seconds), self._slots:
                yield
        except TimeoutError:
            raise EgressError(EgressReason.TIMEOUT, f"did not answer completely within {seconds:g} s") from None
        except (aiohttp.ClientError, ConnectionError, UnsupportedEncoding) as error:
            _refuse(error)

    @asynccontextmanager
    async def _requested(
        self, method: str, target: Target, headers: Mapping[str, str], body: bytes | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request over a connection of its own, to a vetted address."""
        addresses = self._policy.vet(target, await self._addresses(target.host))
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(addresses), use_dns_cache=False, force_close=True, ssl=self._tls
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
                trust_env=False,
                auto_decompress=False,
                max_headers=100,
            ) as session,
            session.request(
                method, URL(target.url, encoded=True), headers=headers, data=body, allow_redirects=False
            ) as response,
        ):
            yield response

    async def _addresses(self, host: str) -> Sequence[str]:
        if ":" in host or host.replace(".", "").isdigit():  # an address, which `parse_target` has checked
            return [host]
        try:
            return await self._resolve(host)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                text = "has a host whose address cannot be looked up now"
                raise EgressError(EgressReason.UNREACHABLE, text) from None
            raise not_public() from None
        except (OSError, UnicodeError):
            raise not_public() from None

    async def _look_up(self, host: str) -> Sequence[str]:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _get_addresses, host)
        return list(dict.fromkeys(found))


class _Pinned(AbstractResolver):
    """Returns the addresses that were vetted, whatever the DNS would say now."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        pass


@cache
def _system_tls() -> ssl.SSLContext:
    """Return the context that trusts what the system trusts. Reading its certificates takes 30 ms."""
    return ssl.create_default_context()


def _get_addresses(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def _redirected(target: Target, location: str) -> Target:
    try:
        following = parse_target(urljoin(target.url, location))
    except ValueError:
        raise EgressError(EgressReason.INVALID_URL, "redirects to an invalid URL") from None
    if target.scheme == "https" and following.scheme != "https":
        raise EgressError(EgressReason.INVALID_URL, "redirects from https:// to http://")
    return following


async def _read(target: Target, response: aiohttp.ClientResponse, limit: int) -> EgressResponse:
    """Read the body, and stop at the first byte above the limit, before or after decoding."""
    too_large = EgressError(EgressReason.TOO_LARGE, f"has more than {limit:,} bytes")
    if (response.content_length or 0) > limit:
        raise too_large
    inflater = Inflater(",".join(response.headers.getall("Content-Encoding", ())))
    body, received = bytearray(), 0
    async for data in response.content.iter_chunked(_READ_BYTES):
        received += len(data)
        if received > limit:
            raise too_large
        for part in inflater.feed(data):
            body += part
            if len(body) > limit:
                raise too_large
            await asyncio.sleep(0)  # 64 KiB may inflate to 64 MiB, which takes many steps
    inflater.finish()
    media_type, charset = _content_type(response.headers.get("Content-Type", ""))
    return EgressResponse(target.url, response.status, media_type, charset, bytes(body))


def _content_type(value: str) -> tuple[str, str]:
    """The media type and the charset that a header names, each empty if it is not well-formed."""
    media_type, _, parameters = value.partition(";")
    charset = _CHARSET.search(";" + parameters)
    valid = _MEDIA_TYPE.fullmatch(media_type.strip())
    return (valid[0].lower() if valid else ""), (charset[1].lower() if charset else "")


def _refuse(error: Exception) -> NoReturn:
    if isinstance(error, aiohttp.ClientSSLError):
        raise EgressError(EgressReason.TLS_FAILED, "has a host without a valid certificate") from None
    if isinstance(error, aiohttp.ClientResponseError | UnsupportedEncoding):
        raise EgressError(EgressReason.UNREADABLE, "answered with something unreadable") from None
    raise EgressError(EgressReason.UNREACHABLE, "has a host that cannot be reached") from None
