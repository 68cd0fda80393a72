"""Embeddings by the wire format of OpenAI, which most servers of embedding models speak."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import aiohttp
import httpx2
import numpy as np
import openai
import orjson
from multidict import CIMultiDict

from ..llm.base import ErrorKind, ProviderError
from ..llm.clock import Clocks
from ..llm.connections import Connections
from ..llm.failures import Failures
from ..llm.http import http_client
from ..llm.tokens import estimate_tokens
from ..llm.wire import TRANSPORT_ERRORS, read_error
from .answers import read_answer
from .base import Embedded, EmbeddingRefused, EmbeddingUnavailable

_MOST_TEXTS = 96  # of a request
_MOST_TOKENS = 200_000  # of a request, estimated; OpenAI takes 300,000
_BYTES_PER_TOKEN = 2  # of a query, which is cut rather than refused; fewer are rare in common vocabularies
_PASSAGE_SECONDS = 60.0
_QUERY_SECONDS = 5.0  # somebody waits, and full-text search answers without
_BYTES_PER_NUMBER = 32  # of a vector in JSON, at most
_OTHER_BYTES = 64 * 1024
# The text is to blame. For other failures it may be sent again, perhaps after the operator has changed something.
_REFUSED = (ErrorKind.REJECTED, ErrorKind.CONTEXT_TOO_LONG)


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """An embedding model on a server."""

    id: str  # "provider/name"
    base_url: str
    dimension: int
    window: int
    shortened: bool = False  # whether the server has to be told the dimension, because the model has a larger one

    @property
    def provider(self) -> str:
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        """Return the server's own name of the model."""
        return self.id.partition("/")[2]


class OpenAIEmbedder:
    """A model behind POST /embeddings."""

    def __init__(
        self,
        model: RemoteModel,
        api_key: str | None,
        clocks: Clocks,
        *,
        passage_seconds: float = _PASSAGE_SECONDS,
        query_seconds: float = _QUERY_SECONDS,
    ) -> None:
        self._remote = model
        self._clocks = clocks
        self._seconds = passage_seconds, query_seconds
        self._failures = Failures(model.provider, [api_key] if api_key else [])
        self._headers = CIMultiDict({"Accept-Encoding": "identity"})
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._base64 = True  # a quarter of the bytes; servers that do not know it send numbers, or refuse it
        self._http: httpx2.AsyncClient = http_client(openai.DefaultAioHttpClient, model.base_url, clocks)
        url = httpx2.URL(model.base_url.rstrip("/") + "/embeddings")
        self._connections = Connections(self._http, url, clocks.connect_seconds)

    @property
    def model(self) -> str:
        return self._remote.id

    @property
    def dimension(self) -> int:
        return self._remote.dimension

    @property
    def window(self) -> int:
        return self._remote.window

    async def embed(self, texts: Sequence[str], *, query: bool) -> Embedded:
        """Return the vectors of texts. Queries lose what may not fit in the window; passages have to fit.

        Raises EmbeddingUnavailable or EmbeddingRefused. Nothing is sent again.
        """
        if query:
            texts = [_cut(text, _BYTES_PER_TOKEN * self.window) for text in texts]
        vectors = [np.empty((0, self.dimension), np.float32)]
        tokens = 0
        for part in _requests(texts):
            found = await self._embed(part, self._seconds[query])
            vectors.append(found.vectors)
            tokens += found.token_count
        return Embedded(np.concatenate(vectors), tokens)

    async def aclose(self) -> None:
        """Close the connections. Requests in progress fail."""
        await self._http.aclose()

    async def _embed(self, texts: list[str], seconds: float) -> Embedded:
        """Send one request. Errors are raised outside of any `except`: those of the HTTP client have the key."""
        clock = asyncio.timeout(seconds)
        try:
            async with clock:
                data = await self._ask(texts)
            return read_answer(data, texts, self.dimension, self._failures)
        except ProviderError as error:
            failure = error
        except TRANSPORT_ERRORS as error:  # a TimeoutError is one
            late = self._failures.no_answer(f"none within {seconds:g} s")
            failure = late if clock.expired() else self._failures.from_connection(error)
        if failure.kind in _REFUSED:
            raise EmbeddingRefused(failure.message)
        raise EmbeddingUnavailable(failure.message, failure.retry_after)

    async def _ask(self, texts: list[str]) -> bytes:
        """Return the answer to a request. Raises ProviderError, or an error of the transport."""
        try:
            return await self._post(self._body(texts))
        except ProviderError as error:
            if not (self._base64 and error.kind is ErrorKind.REJECTED and "encoding_format" in error.message):
                raise
        self._base64 = False
        return await self._post(self._body(texts))

    def _body(self, texts: list[str]) -> bytes:
        body: dict[str, object] = {"model": self._remote.name, "input": texts}
        if self._base64:
            body["encoding_format"] = "base64"
        if self._remote.shortened:
            body["dimensions"] = self.dimension
        return orjson.dumps(body)

    async def _post(self, body: bytes) -> bytes:
        response = await self._connections.post(self._headers, body)
        if not 200 <= response.status < 300:
            said = await read_error(response, self._clocks.error_seconds)
            raise self._failures.from_status(response.status, response.headers, said)
        return await self._read(response)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        most = _MOST_TEXTS * self.dimension * _BYTES_PER_NUMBER + _OTHER_BYTES
        data = bytearray()
        try:
            while piece := await response.content.readany():
                data += piece
                if len(data) > most:
                    raise self._failures.no_answer("it is too large")
        finally:
            response.release()
        return bytes(data)


def _cut(text: str, most_bytes: int) -> str:
    return text.encode("utf-8", "replace")[:most_bytes].decode("utf-8", "ignore")


def _requests(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts of each request."""
    part: list[str] = []
    tokens = 0
    for text in texts:
        size = estimate_tokens(text)
        if part and (len(part) == _MOST_TEXTS or tokens + size > _MOST_TOKENS):
            yield part
            part, tokens = [], 0
        part.append(text)
        tokens += size
    if part:
        yield part
