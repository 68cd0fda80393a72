"""The SDKs' own parsing decides what a stream says: ours must say the same of any script, however it is cut up."""

from collections.abc import AsyncIterator

import anthropic
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiworkspace_server.llm.base import Provider, TokenUsage
from tests.standin import Script, Standin

from .answers import MODEL, answer, question
from .conftest import ANTHROPIC_KEY, OPENAI_KEY

# Whatever people write, and whatever looks like the format itself.
_texts = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["data: ", "\n\n", "\r\n", "[DONE]", "data: [DONE]\n\n", "\u2028", "\ufeff", "😀", "\\ud83d", '"}', ":"]
    ),
)


@st.composite
def _usages(draw: st.DrawFn) -> TokenUsage:
    cached, written, fresh = (draw(st.integers(0, 6_000)) for _ in range(3))
    reasoning, said = (draw(st.integers(0, 10_000)) for _ in range(2))
    return TokenUsage(cached + written + fresh + 1, cached, written, reasoning + said + 1, reasoning)


_scripts = st.builds(
    Script,
    tokens=st.lists(_texts, max_size=12),
    thinking=st.lists(_texts, max_size=5),
    usage=_usages(),
    finish=st.sampled_from(["stop", "length", "content_filter"]),
    piece_bytes=st.one_of(st.none(), st.integers(1, 400)),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
)
_examples = settings(max_examples=100, deadline=None)


@pytest.fixture(scope="session")
async def sdk_openai(standin: Standin) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=OPENAI_KEY, base_url=standin.openai_url) as client:
        yield client


@pytest.fixture(scope="session")
async def sdk_anthropic(standin: Standin) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(api_key=ANTHROPIC_KEY, base_url=standin.url) as client:
        yield client


@given(script=_scripts)
@_examples
async def test_openai(standin: Standin, openai_wire: Provider, sdk_openai: openai.AsyncOpenAI, script: Script) -> None:
    standin.script(MODEL, script)
    ours = await answer(openai_wire, question(limit=10_000))
    text, thinking, usage = await _openai_sdk(sdk_openai)
    assert ours.error is None
    assert (ours.text, ours.thinking, ours.finish) == (text, thinking, script.finish)
    assert ours.usages == [usage] == [script.usage]


async def _openai_sdk(client: openai.AsyncOpenAI) -> tuple[str, str, TokenUsage]:
    text = thinking = ""
    usage = None
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Say hello."}],
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            thinking += getattr(choice.delta, "reasoning_content", None) or ""
        usage = chunk.usage or usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.completion_tokens_details is not None
    return (
        text,
        thinking,
        TokenUsage(
            usage.prompt_tokens,
            usage.prompt_tokens_details.cached_tokens or 0,
            usage.prompt_tokens_details.cache_write_tokens or 0,
            usage.completion_tokens,
            usage.completion_tokens_details.reasoning_tokens or 0,
        ),
    )


@given(script=_scripts)
@_examples
async def test_anthropic(
    standin: Standin, anthropic_wire: Provider, sdk_anthropic: anthropic.AsyncAnthropic, script: Script
) -> None:
    standin.script(MODEL, script)
    ours = await answer(anthropic_wire, question(limit=10_000))
    text, thinking, usage = await _anthropic_sdk(sdk_anthropic)
    assert ours.error is None
    assert (ours.text, ours.thinking, ours.finish) == (text, thinking, script.finish)
    assert ours.usages[-1] == usage == script.usage


async def _anthropic_sdk(client: anthropic.AsyncAnthropic) -> tuple[str, str, TokenUsage]:
    async with client.messages.stream(
        model=MODEL, max_tokens=10_000, messages=[{"role": "user", "content": "Say hello."}]
    ) as stream:
        message = await stream.get_final_message()
    text = "".join(block.text for block in message.content if block.type == "text")
    thinking = "".join(block.thinking for block in message.content if block.type == "thinking")
    usage = message.usage
    cached, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    reasoning = usage.output_tokens_details.thinking_tokens if usage.output_tokens_details else 0
    total = usage.input_tokens + cached + written
    return text, thinking, TokenUsage(total, cached, written, usage.output_tokens, reasoning)
