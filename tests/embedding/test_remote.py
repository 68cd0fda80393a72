"""The wire format of OpenAI's embeddings, before the stand-in."""

import asyncio
import math
import re
import traceback
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from aiworkspace_server.embedding.base import EmbeddingRefused, EmbeddingUnavailable
from aiworkspace_server.embedding.remote import OpenAIEmbedder, RemoteModel
from aiworkspace_server.llm.clock import Clocks
from tests.standin import EmbeddingScript, HttpError, Standin, vector

pytestmark = pytest.mark.usefixtures("fresh_standin")

KEY = "sk-proj-EmbQk7vR2mXw9LtZb4N8"
CLOCKS = Clocks(connect_seconds=30, first_content_seconds=60, idle_seconds=60)
SMALL = "text-embedding-3-small"


def embedder(url: str, model: str = f"openai/{SMALL}", dimension: int = 1536, **options: Any) -> OpenAIEmbedder:
    seconds = {"passage_seconds": 60.0, "query_seconds": 60.0} | options
    return OpenAIEmbedder(RemoteModel(model, url, dimension, 8191), KEY, CLOCKS, **seconds)


@pytest.fixture
async def remote(standin: Standin) -> AsyncIterator[OpenAIEmbedder]:
    remote = embedder(standin.openai_url)
    yield remote
    await remote.aclose()


def unit(text: str, dimension: int = 1536) -> np.ndarray[Any, np.dtype[np.float32]]:
    found = vector(text, dimension)
    return found / np.linalg.norm(found)


def changed(field: str, value: object) -> EmbeddingScript:
    """An answer whose second row has another value in a field; None leaves the row out."""

    def change(document: dict[str, Any]) -> Any:
        rows = document["data"]
        rows[1:2] = [] if value is None else [rows[1] | {field: value}]
        return document

    return EmbeddingScript(change=change)


@pytest.mark.parametrize("numbers", [False, True])
async def test_vectors_have_length_1_and_the_order_of_the_texts(
    standin: Standin, remote: OpenAIEmbedder, numbers: bool
) -> None:
    def shuffle(document: dict[str, Any]) -> Any:
        return document | {"data": document["data"][::-1]}

    standin.embeddings = [EmbeddingScript(numbers=numbers, change=shuffle)]
    texts = ["one fish", "two fish", "red fish"]
    found = await remote.embed(texts, query=False)
    assert found.vectors.dtype == np.float32
    assert found.vectors == pytest.approx(np.array([unit(text) for text in texts]), abs=1e-6)
    assert found.token_count == 6
    [received] = standin.received
    assert received.path == "/v1/embeddings"
    assert received.key == KEY
    assert received.body == {"model": SMALL, "input": texts, "encoding_format": "base64"}


async def test_shortened_vectors_are_asked_for(standin: Standin) -> None:
    remote = OpenAIEmbedder(RemoteModel(f"openai/{SMALL}", standin.openai_url, 256, 8191, shortened=True), None, CLOCKS)
    assert (await remote.embed(["a"], query=True)).vectors.shape == (1, 256)
    await remote.aclose()
    assert standin.received[0].body["dimensions"] == 256
    assert "authorization" not in standin.received[0].headers


async def test_many_texts_are_sent_in_parts(standin: Standin, remote: OpenAIEmbedder) -> None:
    texts = [f"text {number}" for number in range(200)]
    found = await remote.embed(texts, query=False)
    assert [len(received.body["input"]) for received in standin.received] == [96, 96, 8]
    assert found.vectors[150] == pytest.approx(unit("text 150"), abs=1e-6)
    assert found.token_count == 400
    standin.reset()
    await remote.embed(["word " * 16_000] * 10, query=False)
    assert [len(received.body["input"]) for received in standin.received] == [10]
    standin.reset()
    await remote.embed(["1 2 3 4 " * 8_000] * 10, query=False)
    assert len(standin.received) > 1, "numbers have many tokens"


async def test_no_texts_are_not_sent(standin: Standin, remote: OpenAIEmbedder) -> None:
    assert (await remote.embed([], query=False)).vectors.shape == (0, 1536)
    assert standin.received == []


async def test_long_query_is_cut(standin: Standin, remote: OpenAIEmbedder) -> None:
    await remote.embed(["天" * 20_000], query=True)
    assert standin.received[0].body["input"] == ["天" * (2 * 8191 // 3)]


async def test_server_that_refuses_base64_is_asked_for_numbers(standin: Standin, remote: OpenAIEmbedder) -> None:
    refusal = HttpError(400, "Unrecognized request argument supplied: encoding_format")
    standin.embeddings = [EmbeddingScript(error=refusal)]
    await remote.embed(["a"], query=False)
    await remote.embed(["b"], query=False)
    formats = [received.body.get("encoding_format") for received in standin.received]
    assert formats == ["base64", None, None]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (changed("", None), "not one vector for each of 3 texts, but 2"),
        (changed("index", 0), "not one vector"),
        (changed("index", "x"), "not one vector"),
        (changed("embedding", [0.5] * 1535), "1535 numbers, not 1536"),
        (changed("embedding", [0.5] * 1535 + [math.nan]), "not finite"),
        (changed("embedding", [0.0] * 1536), "zero"),
        (changed("embedding", "?"), "neither numbers nor base64"),
        (changed("embedding", "AAAA"), "neither numbers nor base64"),
        (changed("embedding", {}), "neither numbers nor base64"),
        (changed("embedding", ["x"] * 1536), "neither numbers nor base64"),
        (EmbeddingScript(error=HttpError(400, "input is invalid")), "status 400"),
        (EmbeddingScript(error=HttpError(422, "no")), "status 422"),
        (EmbeddingScript(error=HttpError(400, "maximum context length is 8192 tokens")), "maximum context length"),
    ],
)
async def test_vectors_that_cannot_be_used_are_refused(
    standin: Standin, remote: OpenAIEmbedder, script: EmbeddingScript, said: str
) -> None:
    standin.embeddings = [script]
    with pytest.raises(EmbeddingRefused, match=re.escape(said)):
        await remote.embed(["a", "b", "c"], query=False)
    assert len(standin.received) == 1, "not sent again"


@pytest.mark.parametrize(
    ("script", "seconds"),
    [
        (EmbeddingScript(error=HttpError(429, "slow down", headers=(("retry-after", "7"),))), 7.0),
        (EmbeddingScript(error=HttpError(503, "loading", headers=(("retry-after-ms", "1500"),))), 1.5),
        (EmbeddingScript(error=HttpError(500)), None),
        (EmbeddingScript(error=HttpError(401, f"Incorrect API key provided: {KEY}")), None),
        (EmbeddingScript(error=HttpError(429, "You exceeded your current quota", code="insufficient_quota")), None),
        (EmbeddingScript(error=HttpError(404, "The model does not exist", code="model_not_found")), None),
        (EmbeddingScript(change=lambda _: {"error": {"message": "overloaded", "type": "server_error"}}), None),
        (EmbeddingScript(change=lambda _: ["what"]), None),
        (EmbeddingScript(change=lambda _: "x" * 30_000_000), None),
    ],
)
async def test_failure_that_is_not_the_texts_is_unavailable(
    standin: Standin, remote: OpenAIEmbedder, script: EmbeddingScript, seconds: float | None
) -> None:
    standin.embeddings = [script]
    with pytest.raises(EmbeddingUnavailable) as caught:
        await remote.embed(["a"], query=False)
    assert caught.value.retry_after == seconds
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None, "no way from here to the HTTP client's exceptions"
    assert len(await remote.embed(["a"], query=False)) == 2


async def test_server_that_is_silent_is_unavailable(standin: Standin) -> None:
    remote = embedder(standin.openai_url, passage_seconds=0.2, query_seconds=0.1)
    for query in (False, True):
        standin.embeddings = [EmbeddingScript(until=asyncio.Event())]
        with pytest.raises(EmbeddingUnavailable, match="none within"):
            await remote.embed(["a"], query=query)
    await standin.quiet()
    assert [received.hung_up for received in standin.received] == [True, True]
    await remote.aclose()


async def test_server_that_is_down_is_unavailable() -> None:
    remote = embedder("http://127.0.0.1:9/v1")
    with pytest.raises(EmbeddingUnavailable, match="no connection"):
        await remote.embed(["a"], query=False)
    await remote.aclose()


@pytest.mark.parametrize("counted", [None, 0, 1, -5, 10**9, "many"])
async def test_implausible_count_of_tokens_is_estimated(
    standin: Standin, remote: OpenAIEmbedder, counted: object
) -> None:
    standin.embeddings = [EmbeddingScript(change=lambda document: document | {"usage": {"prompt_tokens": counted}})]
    found = await remote.embed(["The quick brown fox", "jumps over the lazy dog"], query=False)
    assert 8 <= found.token_count <= 16


async def test_remote_model_elsewhere_is_asked_through_the_proxy(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, standin.url)
    remote = embedder("http://models.example/v1")
    await remote.embed(["a"], query=False)
    await remote.aclose()
    assert standin.received[0].headers["host"] == "models.example"
