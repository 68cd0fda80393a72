"""Web pages that become documents: their bytes, their names, and what is refused."""

import hashlib
from ipaddress import ip_network
from typing import Any

import pytest

from aiworkspace_server.documents.web_pages import WebPage, fetch
from aiworkspace_server.kit.egress import Egress
from aiworkspace_server.kit.errors import AppError, InvalidArgument, Unavailable
from tests.support.loop_time import watching_loop
from tests.support.sites import replying, site

LARGEST = 100_000


async def page_of(path: str = "/", largest_bytes: int = LARGEST, **fields: Any) -> WebPage:
    """Fetch what a site answers."""
    async with site(replying(**fields)) as internal:
        egress = Egress([ip_network("127.0.0.0/8")])
        return await fetch(egress, f"http://localhost:{internal.port}{path}", largest_bytes)


async def test_page_has_its_bytes_type_and_title() -> None:
    text = "<!doctype html><html><head><title>\n  Ships &amp; harbours: caf\u00e9 </title></head><body>x</body></html>"
    page = await page_of("/index.html", text=text, content_type="text/html", charset="iso-8859-1")
    assert (page.media_type, page.charset, page.name) == ("text/html", "iso-8859-1", "Ships & harbours: caf\u00e9")
    assert page.content == text.encode("iso-8859-1")
    assert page.url.endswith("/index.html")


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/a/report.pdf", b"%PDF-1.7", "report.pdf"),
        ("/a/r%C3%A9sum%C3%A9%20%2F2.txt", b"x", "r\u00e9sum\u00e9 /2.txt"),
        ("/a/b/?q=1", b"<title></title>", "b"),
        ("/", b"<p>no title", "localhost"),
        ("/x", b"<TITLE data-x='1'>\x00A\x1b[31m\xe2\x80\xaeB</TITLE>", "A[31mB"),
        ("/x", b"<title>" + b"y" * 1999 + b"</title>", "y" * 200),
        ("/x", b"<title>" + b"y" * 5000 + b"</title>", "x"),
        ("/x", b"<meta charset=gbk><title>\xd6\xd0\xce\xc4</title>", "\u4e2d\u6587"),
        ("/x", b"<meta charset=zip><title>plain</title>", "plain"),
        ("/x", b"<meta charset=nonsense><title>plain</title>", "plain"),
        ("/x", b"<title" * 20_000, "x"),
    ],
)
async def test_page_gets_a_name(path: str, body: bytes, name: str) -> None:
    assert (await page_of(path, largest_bytes=1 << 20, body=body, headers={"Content-Type": "text/html"})).name == name


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"status": 404}, InvalidArgument, "url: the site answers with status 404"),
        ({"status": 401}, InvalidArgument, "url: the site answers with status 401"),
        ({"status": 302}, InvalidArgument, "url: the site answers with status 302"),
        ({"status": 204}, InvalidArgument, "url: the site answers with status 204"),
        ({"body": b""}, InvalidArgument, "url: the page is empty"),
        ({"body": bytes(LARGEST + 1)}, InvalidArgument, "url: has more than 100,000 bytes"),
        ({"status": 503}, Unavailable, "url: the site answers with status 503"),
        ({"status": 429}, Unavailable, "url: the site answers with status 429"),
    ],
)
async def test_page_that_is_none_is_refused_with_its_reason(
    fields: dict[str, Any], error: type[AppError], says: str
) -> None:
    with pytest.raises(error) as raised:
        await page_of(**fields)
    assert raised.value.message.startswith(says)


@pytest.mark.parametrize("url", ["https://169.254.169.254/", "file:///etc/passwd", "https://localhost/"])
async def test_internal_page_is_refused_by_its_field(url: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await fetch(Egress([]), url, LARGEST)
    assert raised.value.violations.keys() == {"url"}


async def test_site_that_is_away_may_be_retried() -> None:
    with pytest.raises(Unavailable):
        await fetch(Egress([ip_network("127.0.0.0/8")]), "http://localhost:9/", LARGEST)


async def test_hash_of_the_largest_page_holds_the_loop_shortly() -> None:
    page = WebPage("https://example.com/", "text/plain", "", "page", bytes(20 << 20))
    with watching_loop() as loop:
        declared = await page.declared()
    sha256 = hashlib.sha256(page.content).digest()
    assert declared == {"name": "page", "size_bytes": 20 << 20, "sha256": sha256}
    assert loop.longest < 0.005, (loop.longest, loop.what)
