"""Which embedder the settings make, and what they refuse."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from aiworkspace_server.embedding.build import Embedding, build
from aiworkspace_server.settings import Deployment, SettingsError
from tests.standin import Standin

pytestmark = pytest.mark.usefixtures("fresh_standin")

Build = Callable[..., Awaitable[Embedding]]


@pytest.fixture
async def built() -> AsyncIterator[Build]:
    """Builds from settings, and closes at the end."""
    made: list[Embedding] = []

    async def make(**settings: object) -> Embedding:
        made.append(build(Deployment.model_validate(settings)))
        return made[-1]

    yield make
    for each in made:
        await each.aclose()


async def test_built_in_model_is_the_default(built: Build) -> None:
    embedding = await built(openai_api_key="sk-not-asked")
    assert embedding.embedder is not None
    assert embedding.embedder.model == "local/all-minilm-l6-v2"
    assert (embedding.embedder.dimension, embedding.embedder.window) == (384, 256)
    found = await embedding.embedder.embed(["text"] * 70, query=False)
    query = await embedding.embedder.embed(["text"], query=True)
    assert found.vectors.shape == (70, 384)
    assert found.vectors[69] @ query.vectors[0] == pytest.approx(1, abs=1e-5)
    assert (await embedding.embedder.embed([], query=True)).vectors.shape == (0, 384)


async def test_without_a_model_texts_are_still_split(built: Build) -> None:
    embedding = await built(embedding_model="none")
    assert embedding.embedder is None
    text = "A sentence of six words here. " * 100
    chunks = await embedding.process.split(text, [(0, len(text), {})])
    assert all(800 < chunk.end - chunk.start <= 1200 for chunk in chunks[:-1])


async def test_openai_model_has_the_key_and_the_address_of_the_provider(standin: Standin, built: Build) -> None:
    embedding = await built(
        embedding_model="openai/text-embedding-3-small", openai_api_key="sk-server", openai_base_url=standin.openai_url
    )
    assert embedding.embedder is not None
    assert (embedding.embedder.dimension, embedding.embedder.window) == (1536, 8191)
    await embedding.embedder.embed(["a"], query=True)
    assert standin.received[0].key == "sk-server"
    assert "dimensions" not in standin.received[0].body


async def test_key_of_the_provider_is_not_sent_to_another_address(standin: Standin, built: Build) -> None:
    for key in (None, "sk-embedding"):
        embedding = await built(
            embedding_model="openai/text-embedding-3-small",
            embedding_base_url=standin.openai_url,
            embedding_api_key=key and SecretStr(key),
            openai_api_key="sk-server",
        )
        assert embedding.embedder is not None
        await embedding.embedder.embed(["a"], query=True)
    assert [received.key for received in standin.received] == ["", "sk-embedding"]


async def test_model_of_an_own_server_needs_its_dimension(standin: Standin, built: Build) -> None:
    settings = {"embedding_model": "local/nomic/embed", "local_model_base_url": standin.openai_url}
    with pytest.raises(SettingsError, match="EMBEDDING_DIMENSION is not set"):
        await built(**settings)
    embedding = await built(**settings, embedding_dimension=384)
    assert embedding.embedder is not None
    assert embedding.embedder.window == 512
    await embedding.embedder.embed(["a"], query=True)
    assert standin.received[0].body["model"] == "nomic/embed"
    assert "dimensions" not in standin.received[0].body, "most servers refuse it"


async def test_shorter_vectors_are_asked_of_models_that_have_them(standin: Standin, built: Build) -> None:
    settings = {"openai_api_key": "sk", "openai_base_url": standin.openai_url, "embedding_dimension": 512}
    embedding = await built(embedding_model="openai/text-embedding-3-large", **settings)
    assert embedding.embedder is not None
    assert (await embedding.embedder.embed(["a"], query=True)).vectors.shape == (1, 512)


async def test_tokenizer_of_the_settings_counts(built: Build, weights: Path) -> None:
    settings = {
        "embedding_model": "local/other",
        "embedding_dimension": 8,
        "local_model_base_url": "http://127.0.0.1:9",
    }
    text = "Sentences of words. " * 500
    longest = []
    for tokenizer in (None, weights / "tokenizer.json"):
        embedding = await built(**settings, embedding_tokenizer=tokenizer)
        chunks = await embedding.process.split(text, [(0, len(text), {})])
        longest.append(max(chunk.end - chunk.start for chunk in chunks))
    assert longest[0] <= 512 < longest[1]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"embedding_model": "openai/text-embedding-3-small"}, "EMBEDDING_API_KEY is not set"),
        ({"embedding_model": "openai/unknown", "openai_api_key": "sk"}, "the price of openai/unknown is not known"),
        ({"embedding_model": "local/other", "embedding_dimension": 8}, "EMBEDDING_BASE_URL is not set"),
        ({"embedding_window": 513}, "EMBEDDING_WINDOW: local/all-minilm-l6-v2 reads at most 512"),
        (
            {"embedding_model": "openai/text-embedding-3-small", "openai_api_key": "sk", "embedding_dimension": 1537},
            "EMBEDDING_DIMENSION: openai/text-embedding-3-small has 1536",
        ),
        (
            {"embedding_model": "openai/text-embedding-ada-002", "openai_api_key": "sk", "embedding_dimension": 100},
            "EMBEDDING_DIMENSION: openai/text-embedding-ada-002 has 1536",
        ),
        (
            {"embedding_model": "openai/text-embedding-3-small", "openai_api_key": "sk", "embedding_tokenizer": "/no"},
            "EMBEDDING_TOKENIZER: there is no file /no",
        ),
    ],
)
async def test_settings_that_do_not_agree_are_named(built: Build, settings: dict[str, object], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        await built(**settings)


@pytest.mark.parametrize("model", ["", "all-minilm", "anthropic/x", "openai/", "openai/a b", "None"])
def test_model_of_another_form_is_refused(model: str) -> None:
    with pytest.raises(ValueError, match="must be none, or a provider and a model"):
        Deployment(embedding_model=model)
