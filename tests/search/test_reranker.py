"""Reranking: the server's order, or the order as it was."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import orjson
import pytest
from aiohttp import web

from aiworkspace_server.kit.postgres import Database
from aiworkspace_server.kit.tasks import Tasks
from aiworkspace_server.llm.clock import Clocks
from aiworkspace_server.search.build import build
from aiworkspace_server.search.models import Filters, LeftOut, SearchResult
from aiworkspace_server.search.reranker import Reranker
from aiworkspace_server.settings import Deployment, SettingsError
from aiworkspace_server.usage.ledger import Ledger
from tests.support.indexed import Library, searching

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

TEXTS = ["alpha", "alpha beta", "alpha beta gamma"]  # the order without a reranker


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    """Yield the address of a server with this answer to requests to rerank."""
    application = web.Application()
    application.router.add_post("/v1/rerank", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


@asynccontextmanager
async def reranker(handler: Handler, seconds: float = 60) -> AsyncIterator[Reranker]:
    async with served(handler) as url:
        reranker = Reranker(url, "m", "key", Clocks(5, 5, 5), seconds=seconds)
        yield reranker
        await reranker.aclose()


async def ask(db: Database, library: Library, reranker: Reranker) -> SearchResult:
    for text in TEXTS:
        await library.add(text)
    return await searching(db, {}, reranker).search(library.asker, "alpha", Filters(), 10)


def texts(result: SearchResult) -> Sequence[str]:
    return [hit.text for hit in result.hits]


@pytest.mark.parametrize("bare", [False, True])
async def test_order_is_that_of_the_server(db: Database, library: Library, bare: bool) -> None:
    asked = []

    async def handle(request: web.Request) -> web.Response:
        asked.append((request.headers["Authorization"], await request.json()))
        name = "score" if bare else "relevance_score"
        results = [{"index": 2, name: 0.1}, {"index": 1, name: 0.9}]
        return web.json_response(results if bare else {"results": results})

    async with reranker(handle) as ranks:
        result = await ask(db, library, ranks)
    assert texts(result) == [TEXTS[1], TEXTS[2], TEXTS[0]]
    assert LeftOut.RERANKER_UNAVAILABLE not in result.left_out
    assert asked == [("Bearer key", {"model": "m", "query": "alpha", "documents": TEXTS, "top_n": 3})]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (302, b""),
        (200, b"not JSON"),
        (200, b"[]"),
        (200, b'"results"'),
        (200, orjson.dumps({"results": [{"index": 3, "relevance_score": 1}]})),
        (200, orjson.dumps({"results": [{"index": -1, "relevance_score": 1}]})),
        (200, orjson.dumps({"results": [{"index": 0, "relevance_score": 1}] * 2})),
        (200, orjson.dumps({"results": [{"index": "0", "relevance_score": 1}]})),
        (200, orjson.dumps({"results": [{"index": True, "relevance_score": 1}]})),
        (200, orjson.dumps({"results": [{"index": 0, "relevance_score": None}]})),
        (200, b'{"results": [{"index": 0, "relevance_score": 1e999}]}'),
        (200, b"[" * 100_000),
        (200, b" " * (5 << 20)),
    ],
)
async def test_unusable_answer_changes_nothing(db: Database, library: Library, status: int, body: bytes) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={"Location": "/v1/rerank"})

    async with reranker(handle) as ranks:
        result = await ask(db, library, ranks)
    assert texts(result) == TEXTS
    assert LeftOut.RERANKER_UNAVAILABLE in result.left_out


async def test_late_answer_changes_nothing(db: Database, library: Library) -> None:
    async def handle(request: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        return web.Response()

    async with reranker(handle, seconds=0.05) as ranks:
        result = await ask(db, library, ranks)
    assert texts(result) == TEXTS
    assert LeftOut.RERANKER_UNAVAILABLE in result.left_out


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"rerank_model": "m"}, "RERANK_BASE_URL is not set"),
        ({"rerank_api_key": "key"}, "RERANK_BASE_URL is not set"),
        ({"rerank_base_url": "http://127.0.0.1:1"}, "RERANK_MODEL is not set"),
    ],
)
async def test_settings_that_do_not_agree_are_named(db: Database, settings: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        build(Deployment.model_validate(settings), db, {}, Ledger(None), Tasks())


async def test_settings_name_the_server(db: Database, library: Library) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.json_response({"results": [{"index": 2, "relevance_score": 1}]})

    async with served(handle) as url:
        settings = {"rerank_base_url": url, "rerank_model": "m"}
        search = build(Deployment.model_validate(settings), db, {}, Ledger(None), Tasks())
        await library.add(*TEXTS)
        result = await search.search(library.asker, "alpha", Filters(), 10)
        await search.aclose()
    assert texts(result) == [TEXTS[2], TEXTS[0], TEXTS[1]]


async def test_missing_server_changes_nothing(db: Database, library: Library) -> None:
    ranks = Reranker("http://127.0.0.1:1", "m", None, Clocks(5, 5, 5))
    result = await ask(db, library, ranks)
    await ranks.aclose()
    assert texts(result) == TEXTS
    assert LeftOut.RERANKER_UNAVAILABLE in result.left_out
