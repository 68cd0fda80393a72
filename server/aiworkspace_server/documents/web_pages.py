"""Web pages as documents: requests a page, and finds a name for it."""

import asyncio
import codecs
import hashlib
import html
import re
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from aiworkspace.v1.document_pb2 import UploadDocumentRequest

from ..kit.egress import Egress, EgressLimits, EgressResponse
from ..kit.egress_policy import EgressError
from ..kit.errors import InvalidArgument, Unavailable
from .content import PIECE_BYTES

_LARGEST_BYTES = 20 << 20
_SECONDS = 60.0
_RETRY_SECONDS = 30.0
_TITLE = re.compile(rb"<title(?:\s[^>]{0,200})?>([^<]{1,2000})</title", re.IGNORECASE)
_META_CHARSET = re.compile(rb"<meta\s[^>]{0,200}?charset=[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_HEAD_BYTES = 64 << 10
_NAME_CHARACTERS = 200
_HTML = {"text/html", "application/xhtml+xml"}


@dataclass(frozen=True, slots=True)
class WebPage:
    """The bytes as the site sent them, after decoding Content-Encoding."""

    url: str  # after redirects
    media_type: str  # what the site says; empty if nothing
    charset: str  # what the site says; empty if nothing
    name: str  # the title, or else the end of the path, or else the host; without control characters
    content: bytes

    async def declared(self) -> dict[str, Any]:
        """Return what an upload of the page declares. The hash of a large page is made in a thread."""
        sha256 = await asyncio.to_thread(hashlib.sha256, self.content)
        return {"name": self.name, "size_bytes": len(self.content), "sha256": sha256.digest()}

    async def messages(self) -> AsyncIterator[UploadDocumentRequest]:
        """Yield the messages of an upload of the page."""
        for offset in range(0, len(self.content), PIECE_BYTES):
            data = self.content[offset : offset + PIECE_BYTES]
            yield UploadDocumentRequest(offset=offset, data=data, finish=offset + PIECE_BYTES >= len(self.content))


class WebPages:
    """Requests pages. `largest_bytes` is the limit of documents; pages have one of 20 MiB besides."""

    def __init__(self, egress: Egress, largest_bytes: int) -> None:
        self._egress = egress
        self._largest_bytes = largest_bytes

    async def fetch(self, url: str) -> WebPage:
        """Request the page of a URL that a caller named.

        Raises InvalidArgument, naming `url`, for what a retry cannot change, and Unavailable for what it can.
        """
        return await fetch(self._egress, url, self._largest_bytes)


async def fetch(egress: Egress, url: str, largest_bytes: int) -> WebPage:
    """Request a page of at most so many bytes: see WebPages.fetch."""
    limits = EgressLimits(min(largest_bytes, _LARGEST_BYTES), _SECONDS)
    try:
        response = await egress.get(url, limits)
    except EgressError as error:
        if error.retryable:
            raise Unavailable(f"url: {error.message}. Retry later.", _RETRY_SECONDS) from None
        raise InvalidArgument({"url": error.message}) from None
    if response.status == 429 or response.status >= 500:
        raise Unavailable(f"url: the site answers with status {response.status}. Retry later.", _RETRY_SECONDS)
    if response.status != 200:
        raise InvalidArgument({"url": f"the site answers with status {response.status}"})
    if not response.body:
        raise InvalidArgument({"url": "the page is empty"})
    return WebPage(response.url, response.media_type, response.charset, _name(response), response.body)


def _name(response: EgressResponse) -> str:
    parts = urlsplit(response.url)
    last = unquote(parts.path.rstrip("/").rpartition("/")[2])
    return _cleaned(_title(response)) or _cleaned(last) or parts.hostname or "page"


def _title(response: EgressResponse) -> str:
    """Return the title of an HTML page, or nothing. Looks only at the beginning, and parses nothing."""
    head = response.body[:_HEAD_BYTES]
    found = _TITLE.search(head) if response.media_type in _HTML else None
    if found is None:
        return ""
    declared = _META_CHARSET.search(head)
    charset = response.charset or (declared[1].decode("ascii", "replace") if declared else "")
    return html.unescape(found[1].decode(_text_codec(charset), "replace"))


def _text_codec(charset: str) -> str:
    """Return the name of a codec of Python. Some of them, such as zip, decode no text; others are unknown."""
    try:
        "".encode(charset)
        return codecs.lookup(charset).name
    except (LookupError, ValueError):
        return "utf-8"


def _cleaned(text: str) -> str:
    """Return the text in NFC, in one line and without characters that a name must not have."""
    normal = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(char for char in normal if char.isprintable()).strip()[:_NAME_CHARACTERS].strip()
