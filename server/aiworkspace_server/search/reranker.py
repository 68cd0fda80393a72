"""An optional second opinion on the order: a cross-encoder behind POST /rerank.

Jina, Cohere, text-embeddings-inference and vLLM speak it. Whatever goes wrong, the order stays as it was.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import httpx2
import orjson
import structlog
from multidict import CIMultiDict

from ..llm.clock import Clocks
from ..llm.connections import Connections
from ..llm.http import http_client
from ..llm.wire import TRANSPORT_ERRORS

log = structlog.get_logger("search")

_SECONDS = 2.0
_MOST_BYTES = 4 << 20  # of an answer: servers may send the texts back


class Reranker:
    """A reranking model on a server."""

    def __init__(
        self, base_url: str, model: str, api_key: str | None, clocks: Clocks, *, seconds: float = _SECONDS
    ) -> None:
        self._model = model
        self._seconds = seconds
        self._headers = CIMultiDict({"Accept-Encoding": "identity", "Content-Type": "application/json"})
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        import openai  # takes a second and 25 MB, which a server without a reranker does not need

        self._http: httpx2.AsyncClient = http_client(openai.DefaultAioHttpClient, base_url, clocks)
        url = httpx2.URL(base_url.rstrip("/") + "/rerank")
        self._connections = Connections(self._http, url, clocks.connect_seconds)

    async def rerank(self, question: str, texts: Sequence[str]) -> list[int] | None:
        """Return the positions of the texts, best first, or None if the server is late, fails or makes no sense."""
        body = {"model": self._model, "query": question, "documents": list(texts), "top_n": len(texts)}
        problem: str
        try:
            async with asyncio.timeout(self._seconds):
                return _order(orjson.loads(await self._post(orjson.dumps(body))), len(texts))
        except (*TRANSPORT_ERRORS, ValueError) as error:  # a TimeoutError is one of the first
            # Their texts may have the key, or words of documents.
            problem = str(error) if isinstance(error, _Unusable) else type(error).__name__
        log.warning("reranking_failed", error=problem)
        return None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _post(self, body: bytes) -> bytes:
        response = await self._connections.post(self._headers, body)
        data = bytearray()
        try:
            if response.status != 200:
                raise _Unusable(f"status {response.status}")
            while piece := await response.content.readany():
                data += piece
                if len(data) > _MOST_BYTES:
                    raise _Unusable("the answer is too large")
        finally:
            response.release() if response.status == 200 and response.content.at_eof() else response.close()
        return bytes(data)


class _Unusable(ValueError):
    """The text is ours and may be logged."""


def _order(answer: Any, count: int) -> list[int]:
    """Return the positions by their scores; those without a score stay behind, in their order. Raises _Unusable."""
    results = answer.get("results") if isinstance(answer, dict) else answer  # TEI sends the list alone
    if not isinstance(results, list) or not results:
        raise _Unusable("no results")
    scores: dict[int, float] = {}
    for result in results:
        index, score = _scored(result)
        if not 0 <= index < count or index in scores or not math.isfinite(score):
            raise _Unusable("a result has no place or no score")
        scores[index] = score
    best = sorted(scores, key=lambda index: (-scores[index], index))
    return best + [index for index in range(count) if index not in scores]


def _scored(result: Any) -> tuple[int, float]:
    if not isinstance(result, dict):
        raise _Unusable("a result is no object")
    index, score = result.get("index"), result.get("relevance_score", result.get("score"))
    if isinstance(index, int) and isinstance(score, int | float) and not isinstance(index, bool):
        return index, float(score)
    raise _Unusable("a result has no index or no score")
