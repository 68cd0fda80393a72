import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from aiworkspace_server.llm import catalog
from aiworkspace_server.llm.base import ErrorKind
from aiworkspace_server.llm.clock import LocalClocks
from aiworkspace_server.llm.registry import Registry, UnknownModel
from aiworkspace_server.settings import Deployment
from tests.standin import HttpError, Script, Standin
from tests.support.waiting import until_true

from .answers import answer, question
from .conftest import ANTHROPIC_KEY, DEEPSEEK_KEY, OPENAI_KEY, listening


def settings(standin: Standin, **more: Any) -> Deployment:
    """Settings that name the stand-in, and nothing from this machine's environment."""
    return Deployment.model_construct(
        openai_base_url=standin.openai_url,
        deepseek_base_url=standin.openai_url,
        anthropic_base_url=standin.url,
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
def clocks() -> LocalClocks:
    """Of the local server in `registry`, with time for a busy machine. They may be changed while it runs."""
    return LocalClocks(wait_seconds=30, look_seconds=30)


@pytest.fixture
async def registry(standin: Standin, clocks: LocalClocks) -> AsyncIterator[Registry]:
    async with Registry(all_keys(standin), clocks) as registry:
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


async def test_the_local_list_is_asked_once_a_minute(standin: Standin, registry: Registry, clocks: LocalClocks) -> None:
    await asyncio.gather(*(registry.models() for _ in range(10)))
    await registry.resolve("local/llama-3")
    assert standin.models_asked == 1
    clocks.fresh_seconds = 0.0
    await registry.models()
    assert standin.models_asked == 2


async def test_a_new_local_model_is_found_at_once_but_not_by_everybody(
    standin: Standin, registry: Registry, clocks: LocalClocks
) -> None:
    await registry.models()
    standin.models = ["brand-new"]
    with pytest.raises(UnknownModel):
        await registry.resolve("local/brand-new")  # asked less than a second ago
    clocks.retry_seconds = 0.0
    await registry.resolve("local/brand-new")
    assert standin.models_asked == 2


async def test_a_local_server_that_is_down_is_marked_and_changes_nothing_for_others(
    standin: Standin, registry: Registry
) -> None:
    standin.models = None
    for _ in range(5):
        ids = [model.id for model in await registry.models()]
        assert "openai/gpt-4o" in ids
        assert not any(model_id.startswith("local/") for model_id in ids)
        assert registry.away() == ["local"]
        await registry.resolve("local/llama-3")  # which it may have: the request will show
    assert standin.models_asked == 1, "a server that is down is not asked by everybody either"
    with pytest.raises(UnknownModel):
        await registry.resolve("local/")


async def test_models_known_before_are_listed_while_the_server_is_down(
    standin: Standin, registry: Registry, clocks: LocalClocks
) -> None:
    before = await registry.models()
    assert registry.away() == []
    standin.models = None
    clocks.fresh_seconds = 0.0
    assert await registry.models() == before
    assert registry.away() == ["local"]
    await registry.resolve("local/llama-3")


async def test_it_recovers(standin: Standin, registry: Registry, clocks: LocalClocks) -> None:
    names, standin.models = standin.models, None
    await registry.models()
    standin.models = names
    clocks.retry_seconds = 0.0
    assert any(model.provider == "local" for model in await registry.models())
    assert registry.away() == []


class Odd:
    """A server whose list of models is these bytes, then silence if it `hangs`."""

    def __init__(self) -> None:
        self.answer = b""
        self.hangs = False
        self.chats = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.chats += (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST")
            if not self.hangs:
                head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(self.answer)}\r\nconnection: close\r\n\r\n"
                writer.write(head.encode() + self.answer)
                await writer.drain()
                writer.close()
            else:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass


@pytest.fixture
async def odd() -> AsyncIterator[tuple[Odd, Registry]]:
    odd = Odd()
    async with listening(odd.serve) as url:
        values = Deployment.model_construct(local_model_base_url=f"{url}/v1", echo_tokens_per_second=0)
        async with Registry(values) as registry:
            yield odd, registry


async def test_a_local_server_that_hangs_is_not_waited_for(odd: tuple[Odd, Registry]) -> None:
    server, registry = odd
    server.hangs = True
    begin = asyncio.get_running_loop().time()
    assert [model.id for model in await registry.models()] == ["echo/echo"]
    for number in range(200):
        await registry.resolve(f"local/model-{number}")
    assert asyncio.get_running_loop().time() - begin < 5
    assert registry.away() == ["local"]
    provider, name = await registry.resolve("local/llama-3")
    result = await answer(provider, question(model=name))
    assert result.error
    assert (result.error.kind, result.error.free, server.chats) == (ErrorKind.TIMEOUT, True, 0)
    assert asyncio.get_running_loop().time() - begin < 20


async def test_a_model_without_system_prompts_gets_it_with_the_first_turn(standin: Standin, registry: Registry) -> None:
    provider, name = await registry.resolve("local/llama-3")
    refused = HttpError(400, "System role not supported at row 1")
    standin.script("llama-3", Script(fault=refused), Script())
    assert (await answer(provider, question("Hi", model=name, system="Be brief."))).text == "Hello, world!"
    first, second = (received.body["messages"] for received in standin.received)
    assert [message["role"] for message in first] == ["system", "user"]
    assert second == [{"role": "user", "content": "Be brief.\n\nHi"}]
    standin.script("llama-3", Script(fault=refused))
    assert (await answer(provider, question("Hi", model=name, system="Be brief."))).error
    assert len(standin.received) == 4, "it is tried once"


async def test_a_server_that_works_on_another_request_is_waited_for(
    standin: Standin, registry: Registry, clocks: LocalClocks
) -> None:
    provider, _ = await registry.resolve("local/llama-3")
    go_on = asyncio.Event()
    standin.script("llama-3", Script(until=go_on), Script())
    other = asyncio.create_task(answer(provider, question(model="llama-3")))
    await until_true(lambda: standin.received)
    clocks.alive_seconds, standin.models = 0.0, None
    assert (await answer(provider, question(model="llama-3"))).text == "Hello, world!"
    go_on.set()
    assert (await other).text == "Hello, world!"


LISTS = {
    "no JSON": b"<html>",
    "nothing": b"",
    "a list": b"[1]",
    "no list": b'{"data": {"id": "a"}}',
    "too large": b'{"data": [' + b'{"id": "a"},' * 300_000 + b"{}]}",
}


@pytest.mark.parametrize("body", LISTS.values(), ids=LISTS)
async def test_a_list_that_is_none_harms_nobody(odd: tuple[Odd, Registry], body: bytes) -> None:
    odd[0].answer = body
    assert [model.id for model in await odd[1].models()] == ["echo/echo"]
    assert odd[1].away() == ["local"]


async def test_of_an_odd_list_the_names_are_taken(odd: tuple[Odd, Registry]) -> None:
    entries: list[Any] = [
        {"id": "good"},
        {"id": "good"},
        {"id": 7},
        None,
        "x",
        {"id": None},
        {"name": "n"},
        {"id": "a\ud800"},
    ]
    entries += [{"id": " edge "}, {"id": "\u202egood"}, {"id": "x\0"}, *({"id": f"many-{n}"} for n in range(2000))]
    odd[0].answer = json.dumps({"data": entries}).encode()
    names = [model.name for model in await odd[1].models() if model.provider == "local"]
    assert names[0] == "good"
    assert len(names) == len(set(names)) == 1000
    assert all(name.startswith("many-") for name in names[1:])


@pytest.mark.parametrize("names", [["x" * 300], ["two\nlines"], [""]])
async def test_names_that_are_none_are_left_out(standin: Standin, registry: Registry, names: list[str]) -> None:
    standin.models = [*names, "good"]
    assert [model.name for model in await registry.models() if model.provider == "local"] == ["good"]
