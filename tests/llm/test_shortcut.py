"""The short way of an event that only continues a text: it says the same as the tolerant reading of any event."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiworkspace_server.llm.anthropic_wire import MessageReply
from aiworkspace_server.llm.failures import Failures
from aiworkspace_server.llm.openai_wire import ChatReply
from aiworkspace_server.llm.reply import Reply

from .answers import question


class TolerantChat(ChatReply):
    def continues(self, document: dict[str, Any]) -> bool:
        return False


class TolerantMessage(MessageReply):
    def continues(self, document: dict[str, Any]) -> bool:
        return False


TEXT = st.text(st.characters(), min_size=1, max_size=5) | st.sampled_from(["Hi ", "\ud83d", "\ude00", "[DONE]"])
ODD: list[object] = [
    None,
    "",
    0,
    False,
    [],
    {},
    7,
    True,
    "x",
    "null",
    "stop",
    "error",
    "end_turn",
    ["x"],
    {"error": "no"},
]
ODD += [
    [{"text": "y", "refusal": "z"}],
    {"text": "z"},
    {"output_tokens": 9},
    {"prompt_tokens": 3, "completion_tokens": 2},
]
CHUNK_FIELDS = ("id", "object", "choices", "usage", "error", "message", "detail")
CHOICE_FIELDS = ("delta", "message", "finish_reason")
DELTA_FIELDS = ("role", "content", "reasoning_content", "reasoning", "refusal", "tool_calls")
EVENT_FIELDS = ("type", "index", "delta", "content_block", "message", "usage", "error", "role", "content")
BLOCK_FIELDS = ("type", "text", "thinking", "signature", "stop_reason")


@st.composite
def _chunks(draw: st.DrawFn) -> object:
    """A common chunk of OpenAI's, or one that deviates in a field or two."""
    delta: dict[str, object] = {draw(st.sampled_from(["content", "content", "reasoning_content"])): draw(TEXT)}
    choice: dict[str, object] = {"index": 0, "delta": delta, "finish_reason": None}
    chunk: dict[str, object] = {
        "id": "chatcmpl-1",
        "choices": [choice] * draw(st.sampled_from([1, 1, 1, 1, 2])),
        "usage": None,
    }
    _change(draw, (delta, DELTA_FIELDS), (choice, CHOICE_FIELDS), (chunk, CHUNK_FIELDS))
    return chunk


@st.composite
def _events(draw: st.DrawFn) -> object:
    """A common event of Anthropic's, or one that deviates in a field or two."""
    name = draw(st.sampled_from(["text", "text", "thinking"]))
    delta: dict[str, object] = {"type": f"{name}_delta", name: draw(TEXT)}
    event: dict[str, object] = {"type": "content_block_delta", "index": 0, "delta": delta}
    _change(draw, (delta, BLOCK_FIELDS), (event, EVENT_FIELDS))
    return event


def _change(draw: st.DrawFn, *places: tuple[dict[str, object], tuple[str, ...]]) -> None:
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        place, fields = draw(st.sampled_from(places))
        name = draw(st.sampled_from(fields))
        if draw(st.booleans()):
            place[name] = draw(st.sampled_from(ODD) | TEXT)
        else:
            place.pop(name, None)


BEGIN_CHAT = {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
NAMED = {"id": "chatcmpl-1", "choices": []}
BEGINS: list[list[object]] = [[], [BEGIN_CHAT], [NAMED]]
BEGIN_MESSAGE = {"type": "message_start", "message": {"id": "msg_1", "usage": {"input_tokens": 3, "output_tokens": 1}}}


def read(reply: Reply, events: list[object], end: bytes) -> tuple[object, ...]:
    """Everything that comes of the events, one read for each."""
    seen: list[object] = []
    for event in events:
        failure = reply.read(b"data: %s\n\n" % json.dumps(event).encode())
        seen += [reply.take(), reply.whole, reply.silent, reply.said_bytes, reply.skipped, str(failure)]
        if failure or reply.ended:
            return tuple(seen)
    failure = reply.read(end) or reply.close("end", clean=True)
    return (*seen, reply.take(), reply.reason, reply.skipped, str(failure))


@given(st.sampled_from(BEGINS), st.lists(_chunks(), max_size=6))
@settings(max_examples=1000, deadline=None)
def test_openai(begin: list[object], events: list[object]) -> None:
    short, tolerant = (
        read(reply(question(), Failures("openai", [])), [*begin, *events], b"data: [DONE]\n\n")
        for reply in (ChatReply, TolerantChat)
    )
    assert short == tolerant


@pytest.mark.parametrize("place", ["delta", "choice", "chunk"])
def test_each_field_of_openai(place: str) -> None:
    """With a message after it, which some servers send whole after its deltas."""
    fields = {"delta": DELTA_FIELDS, "choice": CHOICE_FIELDS, "chunk": CHUNK_FIELDS}[place]
    for name, odd, begin in itertools.product(fields, ODD, BEGINS):
        places: dict[str, dict[str, object]] = {"delta": {"content": "Hi"}, "choice": {}, "chunk": {"id": "1"}}
        places["choice"]["delta"], places["chunk"]["choices"] = places["delta"], [places["choice"]]
        places[place][name] = odd
        events = [*begin, places["chunk"], {"choices": [{"message": {"content": "Hi"}}]}]
        short, tolerant = (
            read(reply(question(), Failures("openai", [])), events, b"data: [DONE]\n\n")
            for reply in (ChatReply, TolerantChat)
        )
        assert short == tolerant, (name, odd)


@given(st.sampled_from([[], [BEGIN_MESSAGE]]), st.lists(_events(), max_size=6))
@settings(max_examples=1000, deadline=None)
def test_anthropic(begin: list[object], events: list[object]) -> None:
    short, tolerant = (
        read(reply(question(), Failures("anthropic", [])), [*begin, *events], b'data: {"type": "message_stop"}\n\n')
        for reply in (MessageReply, TolerantMessage)
    )
    assert short == tolerant


def test_the_common_events_take_the_short_way() -> None:
    chat, message = (reply(question(), Failures("x", [])) for reply in (ChatReply, MessageReply))
    chat.take_in(BEGIN_CHAT)
    choice = {"index": 0, "logprobs": None, "finish_reason": None}
    common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "usage": None, "obfuscation": "x"}
    for delta in ({"content": "Hi"}, {"content": None, "reasoning_content": "Hm"}):
        assert chat.continues({**common, "choices": [{**choice, "delta": delta}]})
    for delta in ({"type": "text_delta", "text": "Hi"}, {"type": "thinking_delta", "thinking": "Hm"}):
        assert message.continues({"type": "content_block_delta", "index": 0, "delta": delta})
