"""Requests to URLs that callers name: where they may go, what comes back, and how much of it."""

import asyncio
import gzip
import socket
import ssl
import zlib
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from aiohttp import web

from aiworkspace_server.kit.egress import Egress, EgressLimits, EgressResponse
from aiworkspace_server.kit.egress_policy import EgressError, is_public, parse_target
from tests import corpora
from tests.support.certificates import make_certificate
from tests.support.sites import replying, site

LOCAL = [ip_network("127.0.0.0/8")]
LIMITS = EgressLimits(response_bytes=1 << 20)
PRIVATE_PAGE = "only for this machine"
MALFORMED, INTERNAL, SPELLINGS = (corpora.read("urls", key) for key in ("malformed", "internal", "spellings"))


class Dns:
    """Answers with one list of addresses after the other, the last one again and again."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


async def hello(request: web.BaseRequest) -> web.Response:
    return web.Response(text="hello", content_type="text/plain", charset="utf-8")


async def reason(egress: Egress, url: str, limits: EgressLimits = LIMITS) -> str:
    """Why a request was refused."""
    with pytest.raises(EgressError) as raised:
        await egress.get(url, limits)
    assert "127.0.0" not in raised.value.message, "the caller learns no address"
    return raised.value.reason


# Where requests may go


@pytest.mark.parametrize("url", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_url_is_refused_before_a_lookup(url: str) -> None:
    dns = Dns(["8.8.8.8"])
    assert await reason(Egress([], resolve=dns), url) == "invalid_url"
    assert dns.asked == []


@pytest.mark.parametrize("url", INTERNAL.values(), ids=INTERNAL)
async def test_internal_address_is_refused_in_every_spelling(url: str) -> None:
    dns = Dns(["8.8.8.8"])
    assert await reason(Egress([], resolve=dns), url) == "not_public"
    assert dns.asked == []


@pytest.mark.parametrize(("url", "wanted"), SPELLINGS.items())
def test_url_has_one_spelling(url: str, wanted: str) -> None:
    assert parse_target(url).url == wanted
    assert parse_target(wanted).url == wanted


@pytest.mark.parametrize("address", corpora.read("urls", "forbidden"))
async def test_name_of_a_forbidden_address_is_refused(address: str) -> None:
    assert not is_public(ip_address(address))
    assert await reason(Egress([], resolve=Dns([address])), "https://example.com/") == "not_public"


@pytest.mark.parametrize("address", corpora.read("urls", "public"))
def test_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "fe80::1"])
async def test_metadata_service_is_refused_even_in_an_allowed_network(address: str) -> None:
    everything = [ip_network("0.0.0.0/0"), ip_network("::/0")]
    assert await reason(Egress(everything, resolve=Dns([address])), "http://example.com/") == "not_public"


async def test_unknown_and_internal_names_are_refused_alike() -> None:
    async def unknown(host: str) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    messages = set()
    for resolve in (unknown, Dns(["10.0.0.1"]), Dns([])):
        with pytest.raises(EgressError) as raised:
            await Egress([], resolve=resolve).get("https://internal.example/", LIMITS)
        messages.add((raised.value.reason, raised.value.message))
    assert len(messages) == 1


async def test_name_that_cannot_be_looked_up_now_may_be_retried() -> None:
    async def away(host: str) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "away")

    with pytest.raises(EgressError) as raised:
        await Egress([], resolve=away).get("https://example.com/", LIMITS)
    assert raised.value.retryable


@pytest.mark.parametrize("url", ["http://example.com/", "https://example.com:8443/", "http://example.com:443/"])
async def test_public_site_needs_https_on_its_own_port(url: str) -> None:
    assert await reason(Egress(LOCAL, resolve=Dns(["8.8.8.8"])), url) == "invalid_url"


async def test_site_in_an_allowed_network_is_reached() -> None:
    async with site(hello) as internal:
        url = f"http://wiki.example:{internal.port}/page"
        found = await Egress(LOCAL, resolve=Dns(["127.0.0.1"])).get(url, LIMITS)
    assert found == EgressResponse(url, 200, "text/plain", "utf-8", b"hello")
    sent = internal.requests[0].headers
    assert sent["Host"] == f"wiki.example:{internal.port}"
    assert set(sent) == {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}


async def test_names_of_this_machine_are_looked_up_by_the_system() -> None:
    async with site(hello) as internal:
        found = await Egress(LOCAL).get(f"http://localhost:{internal.port}/", LIMITS)
    assert found.body == b"hello"
    assert await reason(Egress([]), "https://localhost/") == "not_public"


async def test_second_answer_of_the_dns_changes_nothing() -> None:
    async with site(replying(text=PRIVATE_PAGE), "127.0.0.1") as private, site(hello, "127.0.0.2") as vetted:
        dns = Dns(["127.0.0.2"], ["127.0.0.1"])
        egress = Egress([ip_network("127.0.0.2/32")], resolve=dns)
        assert (await egress.get(f"http://rebinding.example:{vetted.port}/", LIMITS)).body == b"hello"
        assert dns.asked == ["rebinding.example"]
        assert await reason(egress, f"http://rebinding.example:{private.port}/") == "not_public"
    assert private.requests == []


async def test_only_the_vetted_one_of_several_addresses_is_reached() -> None:
    async with site(hello, "127.0.0.2") as vetted:
        egress = Egress([ip_network("127.0.0.2/32")], resolve=Dns(["127.0.0.1", "10.0.0.1", "127.0.0.2"]))
        assert (await egress.get(f"http://example.com:{vetted.port}/", LIMITS)).body == b"hello"


async def test_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(replying(text=PRIVATE_PAGE)) as proxy, site(hello) as internal:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        found = await Egress(LOCAL, resolve=Dns(["127.0.0.1"])).get(f"http://a.example:{internal.port}/", LIMITS)
    assert found.body == b"hello"
    assert proxy.requests == []


# TLS


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server named localhost uses, and a client that trusts it."""
    certificate, key = make_certificate(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=certificate)


async def test_certificate_is_checked_by_the_name_and_not_by_the_address(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    server, client = tls
    async with site(hello, tls=server) as secure:
        egress = Egress(LOCAL, resolve=Dns(["127.0.0.1"]), tls=client)
        assert (await egress.get(f"https://localhost:{secure.port}/", LIMITS)).body == b"hello"
        assert await reason(egress, f"https://example.com:{secure.port}/") == "tls_failed"
        unknown = Egress(LOCAL, resolve=Dns(["127.0.0.1"]))
        assert await reason(unknown, f"https://localhost:{secure.port}/") == "tls_failed"
    assert len(secure.requests) == 1


async def test_redirect_from_https_to_http_is_refused(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = tls
    async with site(hello) as plain:
        target = f"http://localhost:{plain.port}/"
        async with site(replying(status=302, headers={"Location": target}), tls=server) as secure:
            egress = Egress(LOCAL, resolve=Dns(["127.0.0.1"]), tls=client)
            assert await reason(egress, f"https://localhost:{secure.port}/") == "invalid_url"
    assert plain.requests == []


# Redirects


async def count_down(request: web.BaseRequest) -> web.Response:
    """/n redirects n times."""
    left = int(request.path.strip("/"))
    if left == 0:
        return web.Response(text="arrived")
    return web.Response(status=307, headers={"Location": f"../{left - 1}", "Set-Cookie": "id=canary"})


async def test_redirects_are_followed_up_to_their_limit() -> None:
    async with site(count_down) as internal:
        egress = Egress(LOCAL, resolve=Dns(["127.0.0.1"]))
        found = await egress.get(f"http://a.example:{internal.port}/5", LIMITS)
        assert (found.body, found.url) == (b"arrived", f"http://a.example:{internal.port}/0")
        assert await reason(egress, f"http://a.example:{internal.port}/6") == "too_many_redirects"
    assert not any("Cookie" in request.headers for request in internal.requests)


@pytest.mark.parametrize("location", [*MALFORMED.values(), *INTERNAL.values(), "//10.0.0.1/", "https:10.0.0.1"])
async def test_redirect_is_checked_from_the_start(location: str) -> None:
    sent = "".join(char for char in location if char.isprintable())
    async with site(replying(status=301, headers={"Location": sent}), "127.0.0.2") as allowed:
        egress = Egress([ip_network("127.0.0.2/32")], resolve=Dns(["127.0.0.2"], ["10.0.0.1"]))
        assert await reason(egress, f"http://a.example:{allowed.port}/") in ("invalid_url", "not_public", "unreadable")
    assert len(allowed.requests) == 1


async def test_redirect_to_a_name_is_resolved_anew() -> None:
    async with site(replying(status=302, headers={"Location": "http://b.example/"})) as internal:
        dns = Dns(["127.0.0.1"], ["10.0.0.1"])
        assert await reason(Egress(LOCAL, resolve=dns), f"http://a.example:{internal.port}/") == "not_public"
    assert dns.asked == ["a.example", "b.example"]


async def test_redirect_without_a_target_is_a_response() -> None:
    async with site(replying(status=302, text="nowhere")) as internal:
        found = await Egress(LOCAL, resolve=Dns(["127.0.0.1"])).get(f"http://a.example:{internal.port}/", LIMITS)
    assert (found.status, found.body) == (302, b"nowhere")


# What comes back


def deflated(data: bytes, window: int) -> bytes:
    packer = zlib.compressobj(wbits=window)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"hello", mtime=0)),
        ("GZIP", gzip.compress(b"hello", mtime=0)),
        ("deflate", deflated(b"hello", 15)),
        ("deflate", deflated(b"hello", -15)),
        ("identity", b"hello"),
    ],
)
async def test_encoded_body_is_decoded(encoding: str, body: bytes) -> None:
    async with site(replying(body=body, headers={"Content-Encoding": encoding})) as internal:
        found = await Egress(LOCAL, resolve=Dns(["127.0.0.1"])).get(f"http://a.example:{internal.port}/", LIMITS)
    assert found.body == b"hello"


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("br", b"hello"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"hello", mtime=0), mtime=0)),
        ("gzip", b"hello"),
        ("gzip", gzip.compress(b"hello" * 1000, mtime=0)[:-9]),
        ("deflate", b"hello"),
    ],
)
async def test_body_that_cannot_be_decoded_is_refused(encoding: str, body: bytes) -> None:
    async with site(replying(body=body, headers={"Content-Encoding": encoding})) as internal:
        egress = Egress(LOCAL, resolve=Dns(["127.0.0.1"]))
        assert await reason(egress, f"http://a.example:{internal.port}/") == "unreadable"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_body_that_inflates_too_far_is_refused(encoding: str) -> None:
    bomb = bytes(300 << 20)
    body = gzip.compress(bomb, 1, mtime=0) if encoding == "gzip" else deflated(bomb, 15)
    async with site(replying(body=body, headers={"Content-Encoding": encoding})) as internal:
        egress = Egress(LOCAL, resolve=Dns(["127.0.0.1"]))
        assert await reason(egress, f"http://a.example:{internal.port}/", EgressLimits(4 << 20)) == "too_large"


@pytest.mark.parametrize("size", [1000, 1001])
async def test_body_may_be_as_large_as_its_limit(size: int) -> None:
    async def chunked(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(bytes(size))
        return response

    for page in (replying(body=bytes(size)), chunked):
        async with site(page) as internal:
            egress, url = Egress(LOCAL, resolve=Dns(["127.0.0.1"])), f"http://a.example:{internal.port}/"
            if size > 1000:
                assert await reason(egress, url, EgressLimits(1000)) == "too_large"
            else:
                assert len((await egress.get(url, EgressLimits(1000))).body) == size


async def test_large_headers_are_refused() -> None:
    for headers in ({"X-Large": "x" * 100_000}, {f"X-{number}": "x" for number in range(1000)}):
        async with site(replying(headers=headers)) as internal:
            egress = Egress(LOCAL, resolve=Dns(["127.0.0.1"]))
            assert await reason(egress, f"http://a.example:{internal.port}/") == "unreadable"


async def test_slow_response_ends_in_time() -> None:
    async def drop_by_drop(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.01)

    async with site(drop_by_drop) as internal:
        egress = Egress(LOCAL, resolve=Dns(["127.0.0.1"]))
        limits = EgressLimits(1 << 20, seconds=0.3)
        assert await reason(egress, f"http://a.example:{internal.port}/", limits) == "timeout"


async def test_slow_lookup_ends_in_time() -> None:
    async def never(host: str) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    limits = EgressLimits(1 << 20, seconds=0.1)
    assert await reason(Egress([], resolve=never), "https://example.com/", limits) == "timeout"


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"])
async def test_server_that_speaks_no_http_is_refused(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    found = await reason(Egress(LOCAL, resolve=Dns(["127.0.0.1"])), f"http://a.example:{port}/")
    assert found in ("unreadable", "unreachable")
    server.close()


CONTENT_TYPES: dict[bytes, tuple[str, str]] = {
    b"Text/HTML; Charset=UTF-8": ("text/html", "utf-8"),
    b"text/html; a=b; charset='koi8-r' ; c=d": ("text/html", "koi8-r"),
    b'text/html;charset="latin1"': ("text/html", "latin1"),
    b"text/html; charset=\xe9": ("text/html", ""),
    b"text/\xe9; charset=utf-8": ("", "utf-8"),
    b"text/html; charset*0=a; charset*=b": ("text/html", ""),
    b"html": ("", ""),
    b"": ("", ""),
}


@pytest.mark.parametrize(("value", "wanted"), CONTENT_TYPES.items(), ids=range(len(CONTENT_TYPES)))
async def test_content_type_of_any_bytes_is_read(value: bytes, wanted: tuple[str, str]) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nContent-Type: "

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + value + b"\r\n\r\nhi")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    found = await Egress(LOCAL, resolve=Dns(["127.0.0.1"])).get(f"http://a.example:{port}/", LIMITS)
    server.close()
    assert (found.media_type, found.charset, found.body) == (*wanted, b"hi")


async def test_closed_port_is_unreachable() -> None:
    assert await reason(Egress(LOCAL, resolve=Dns(["127.0.0.1"])), "http://a.example:9/") == "unreachable"


# Webhooks


async def test_post_sends_its_body_and_follows_no_redirect() -> None:
    async with site(replying(status=308, headers={"Location": "/elsewhere"})) as internal:
        egress = Egress(LOCAL, resolve=Dns(["127.0.0.1"]))
        url = f"http://a.example:{internal.port}/hook"
        found = await egress.post(url, b'{"event": 1}', {"Content-Type": "application/json", "X-Signature": "s"}, 10)
    assert found.status == 308
    assert internal.bodies == [b'{"event": 1}']
    assert internal.requests[0].headers["X-Signature"] == "s"


@pytest.mark.parametrize("url", [*list(INTERNAL.values())[:8], "http://a.example/", "https://b@a.example/"])
async def test_post_goes_nowhere_that_get_does_not(url: str) -> None:
    with pytest.raises(EgressError):
        await Egress([], resolve=Dns(["10.0.0.1"])).post(url, b"{}", {}, 10)
