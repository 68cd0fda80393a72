import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from aiworkspace_server.llm import catalog, local
from aiworkspace_server.llm.base import ErrorKind, ProviderError
from aiworkspace_server.llm.registry import Registry, UnknownModel
from aiworkspace_server.settings import Deployment
from tests.standin import Standin

from .answers import answer, question
from .conftest import ANTHROPIC_KEY, DEEPSEEK_KEY, OPENAI_KEY


def settings(standin: Standin, **more: Any) -> Deployment:
    """Settings that name the stand-in, and nothing from this machine's environment."""
    return Deployment.model_construct(
        openai_base_url=standin.openai_url,
        deepseek_base_url=standin.openai_url,
        anthropic_base_url=standin.anthropic_url,
        echo_tokens_per_second=0,
        **more,
    )


def all_keys(standin: Standin) -> Deployment:
    return settings(
        standin,
        openai_api_key=SecretStr(OPENAI_KEY),
        anthropic_api_key=SecretStr(ANTHROPIC_KEY),
        deepseek_api_key=SecretStr(DEEPSEEK_KEY),
        local_model_base_url=standin.openai_url,
    )


@pytest.fixture
async def registry(standin: Standin) -> AsyncIterator[Registry]:
    async with Registry(all_keys(standin)) as registry:
        yield registry


async def test_echo_needs_nothing(standin: Standin) -> None:
    async with Registry(settings(standin)) as registry:
        assert [model.id for model in await registry.models()] == ["echo/echo"]
        provider, name = await registry.resolve("echo/echo")
        assert (await answer(provider, question(model=name))).finish == "stop"


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("openai/gpt-4o-mini", OPENAI_KEY),
        ("deepseek/deepseek-chat", DEEPSEEK_KEY),
        ("anthropic/claude-sonnet-4-5", ANTHROPIC_KEY),
        ("local/qwen/qwen-3", "none"),
    ],
)
async def test_each_provider_gets_its_own_key_and_name(
    standin: Standin, registry: Registry, model: str, key: str
) -> None:
    provider, name = await registry.resolve(model)
    assert (provider.name, name) == tuple(model.split("/", 1))
    assert (await answer(provider, question(model=name))).text == "Hello, world!"
    assert standin.received[0].key == key
    assert standin.received[0].body["model"] == name


@pytest.mark.parametrize(
    "model", ["openai/no-such", "openai/", "openai", "", "/", "nobody/gpt-4o", "echo/other", "local/no-such"]
)
async def test_unknown_models(registry: Registry, model: str) -> None:
    with pytest.raises(UnknownModel):
        await registry.resolve(model)


async def test_a_provider_without_a_key_is_unknown(standin: Standin) -> None:
    async with Registry(settings(standin, openai_api_key=SecretStr(OPENAI_KEY))) as registry:
        with pytest.raises(UnknownModel):
            await registry.resolve("anthropic/claude-sonnet-4-5")


async def test_all_models_are_listed_in_order_and_resolve(registry: Registry) -> None:
    ids = [model.id for model in await registry.models()]
    assert ids == sorted(set(ids))
    assert {"echo/echo", "openai/gpt-4o", "anthropic/claude-sonnet-4-5", "deepseek/deepseek-chat"} <= set(ids)
    assert {"local/llama-3", "local/qwen/qwen-3"} <= set(ids)
    for model_id in ids:
        await registry.resolve(model_id)


async def test_only_text_models_are_listed() -> None:
    for name in (
        "gpt-4o-audio-preview",
        "gpt-image-1",
        "tts-1",
        "whisper-1",
        "text-embedding-3-small",
        "gpt-realtime",
        "o1-pro",
        "davinci",
        "ft:gpt-4o",
        "gpt-oss-20b",
    ):
        assert name not in catalog.names("openai")
    assert len(catalog.names("openai")) > 10


async def test_prices_of_a_million_tokens_in_nanos() -> None:
    models = {model.id: model for provider in ("openai", "anthropic") for model in catalog.models(provider)}
    mini = models["openai/gpt-4o-mini"]
    assert (mini.input_price, mini.cached_input_price, mini.output_price) == (150_000_000, 75_000_000, 600_000_000)
    assert (mini.cache_write_price, mini.context_tokens) == (None, 128_000)
    tiered = models["anthropic/claude-sonnet-4-5"]
    assert (tiered.input_price, tiered.output_price, tiered.display_name) == (None, None, "Claude Sonnet 4.5")


# The local server's own list


async def test_the_local_list_is_asked_once_a_minute(
    standin: Standin, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.gather(*(registry.models() for _ in range(10)))
    await registry.resolve("local/llama-3")
    assert standin.models_asked == 1
    monkeypatch.setattr(local, "_FRESH_SECONDS", 0.0)
    await registry.models()
    assert standin.models_asked == 2


async def test_a_new_local_model_is_found_at_once_but_not_by_everybody(
    standin: Standin, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registry.models()
    standin.models = ["brand-new"]
    with pytest.raises(UnknownModel):
        await registry.resolve("local/brand-new")  # asked less than a second ago
    monkeypatch.setattr(local, "_RETRY_SECONDS", 0.0)
    await registry.resolve("local/brand-new")
    assert standin.models_asked == 2


async def test_a_local_server_that_is_down_is_left_out(standin: Standin, registry: Registry) -> None:
    standin.models = None
    ids = [model.id for model in await registry.models()]
    assert "openai/gpt-4o" in ids
    assert not any(model_id.startswith("local/") for model_id in ids)
    with pytest.raises(ProviderError) as caught:
        await registry.resolve("local/llama-3")
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert standin.models_asked == 1, "a server that is down is not asked by everybody either"


async def test_a_model_known_before_resolves_while_the_server_is_down(
    standin: Standin, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registry.models()
    standin.models = None
    monkeypatch.setattr(local, "_FRESH_SECONDS", 0.0)
    assert not any(model.provider == "local" for model in await registry.models())
    await registry.resolve("local/llama-3")


async def test_it_recovers(standin: Standin, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    names, standin.models = standin.models, None
    await registry.models()
    standin.models = names
    monkeypatch.setattr(local, "_RETRY_SECONDS", 0.0)
    assert any(model.provider == "local" for model in await registry.models())


@pytest.mark.parametrize("names", [["x" * 300], ["two\nlines"], [""]])
async def test_names_that_are_none_are_left_out(standin: Standin, registry: Registry, names: list[str]) -> None:
    standin.models = [*names, "good"]
    assert [model.name for model in await registry.models() if model.provider == "local"] == ["good"]
