"""Proxies of the environment: for everything but this machine itself."""

import base64

import pytest
from pydantic import SecretStr

from aiworkspace_server.llm.registry import Registry
from aiworkspace_server.settings import Deployment, SettingsError
from tests.standin import Standin

from .answers import answer, question

VARIABLES = [name for scheme in ("http", "https", "all") for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")]
MODELS = {"openai/gpt-4o-mini": "openai", "anthropic/claude-sonnet-4-5": "anthropic", "local/llama-3": "local_model"}
DEAD = "http://127.0.0.1:9"


def use_proxy(monkeypatch: pytest.MonkeyPatch, url: str, no_proxy: str = "") -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, no_proxy)


def registry(base: str) -> Registry:
    return Registry(
        Deployment.model_construct(
            openai_api_key=SecretStr("sk-canary-1"),
            openai_base_url=f"{base}/v1",
            anthropic_api_key=SecretStr("sk-canary-2"),
            anthropic_base_url=base,
            local_model_base_url=f"{base}/v1",
        )
    )


@pytest.mark.parametrize("no_proxy", ["", "example.com", "10.0.0.0/8,fd00::/8,.corp"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "0.0.0.0"])
async def test_model_on_loopback_is_asked_without_the_proxy(
    standin: Standin, monkeypatch: pytest.MonkeyPatch, host: str, no_proxy: str
) -> None:
    use_proxy(monkeypatch, DEAD, no_proxy)
    async with registry(standin.url.replace("127.0.0.1", host)) as models:
        for model in MODELS:
            provider, name = await models.resolve(model)
            assert (await answer(provider, question(model=name))).error is None
        assert {"local/llama-3", "local/qwen/qwen-3"} < {model.id for model in await models.models()}


async def test_model_elsewhere_is_asked_through_the_proxy(standin: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    use_proxy(monkeypatch, standin.url)
    async with registry("http://models.example") as models:
        for model in MODELS:
            provider, name = await models.resolve(model)
            assert (await answer(provider, question(model=name))).error is None
    assert {received.headers["host"] for received in standin.received} == {"models.example"}


async def test_proxy_that_asks_who_you_are_is_told(standin: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    use_proxy(monkeypatch, standin.url.replace("//", "//ann:secret@"))
    async with registry("http://models.example") as models:
        for model in MODELS:
            provider, name = await models.resolve(model)
            assert (await answer(provider, question(model=name))).error is None
    told = {received.headers["proxy-authorization"] for received in standin.received}
    assert told == {"Basic " + base64.b64encode(b"ann:secret").decode()}


async def test_model_elsewhere_that_no_proxy_names_is_asked_directly(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_proxy(monkeypatch, standin.url, "models.example")
    async with registry("http://models.example") as models:
        provider, name = await models.resolve("openai/gpt-4o-mini")
        assert (await answer(provider, question(model=name))).error is not None
    assert standin.received == []


@pytest.mark.parametrize("proxy", ["ftp://127.0.0.1", "http://127.0.0.1:port"])
async def test_proxy_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    use_proxy(monkeypatch, proxy)
    with pytest.raises(SettingsError, match="HTTP_PROXY"):
        registry("http://models.example")
