from typing import Any

import pytest

from aiworkspace_server.llm.base import ModelRequest, Provider, TokenUsage, Turn
from tests.standin import Cut, Script, Standin

from .answers import EVERYTHING, MODEL, answer, question
from .conftest import ANTHROPIC_KEY

CONVERSATION = ModelRequest(
    MODEL, "Be brief.", [Turn("user", "Hi"), Turn("assistant", "Yes?"), Turn("user", "Ä 😀")], 64
)


async def test_the_request(standin: Standin, anthropic_wire: Provider) -> None:
    await answer(anthropic_wire, CONVERSATION)
    assert standin.received[0].key == ANTHROPIC_KEY
    assert standin.received[0].headers["anthropic-version"]
    assert standin.received[0].body == {
        "model": MODEL,
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "Ä 😀"},
        ],
        "max_tokens": 64,
        "stream": True,
    }


async def test_no_system_when_there_is_no_system_text(standin: Standin, anthropic_wire: Provider) -> None:
    await answer(anthropic_wire)
    assert "system" not in standin.received[0].body


async def test_the_input_is_known_even_of_an_answer_that_is_cut(standin: Standin, anthropic_wire: Provider) -> None:
    standin.script(MODEL, Script(usage=TokenUsage(500, 300, 100, 40, 0), fault=Cut(2)))
    assert (await answer(anthropic_wire)).usages == [TokenUsage(500, 300, 100, 1, 0)]


@pytest.mark.parametrize(
    ("model", "taken"),
    [
        ("claude-sonnet-4-5", {"temperature": 1.0}),
        ("claude-opus-4-6", {"temperature": 1.0, "output_config": {"effort": "high"}}),
        ("claude-opus-5", {"output_config": {"effort": "high"}}),
    ],
)
async def test_parameters_that_the_model_takes_are_sent(
    standin: Standin, anthropic_wire: Provider, model: str, taken: dict[str, Any]
) -> None:
    await answer(anthropic_wire, question(model=model, parameters=EVERYTHING))
    plain = {"model", "messages", "stream", "max_tokens"}
    sent = {name: value for name, value in standin.received[0].body.items() if name not in plain}
    assert sent == {**taken, "stop_sequences": ["END", "."]}
