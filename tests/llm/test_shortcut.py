"""The short way of an event that only continues a text: it says the same as the tolerant reading of any event."""

import json
from typing import Any

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


NOTHING: st.SearchStrategy[object] = st.sampled_from([None, "", 0, False, [], {}])
TEXT = st.text(st.characters(), min_size=1, max_size=5) | st.sampled_from(["Hi ", "\ud83d", "\ude00", "[DONE]"])
ODD = st.sampled_from([7, True, "null", "stop", ["x"], [{"text": "y", "refusal": "z"}], {"text": "z"}, {"error": "no"}])
ANY = TEXT | NOTHING | ODD
USAGE = st.sampled_from([None, {}, "x", {"prompt_tokens": 3, "completion_tokens": 2}, {"output_tokens": 9}])
FIELDS = ("role", "content", "reasoning_content", "reasoning", "refusal", "tool_calls")
CHUNK = st.fixed_dictionaries(
    {
        "choices": st.lists(
            st.fixed_dictionaries(
                {"delta": st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=3) | st.builds(dict, content=TEXT)},
                optional={"index": st.just(0), "finish_reason": NOTHING | ODD, "message": ANY},
            )
            | ANY,
            min_size=1,
            max_size=2,
        )
        | ANY
    },
    optional={"id": ANY, "object": st.sampled_from(["error", "chunk"]), "usage": USAGE, "error": NOTHING | ODD},
)
BLOCK_FIELDS = ("type", "text", "thinking", "signature", "stop_reason")
EVENT = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["content_block_delta"] * 5 + ["message_delta", "message_stop", "ping", "error"]),
        "delta": st.builds(dict, type=st.just("text_delta"), text=TEXT)
        | st.builds(dict, type=st.just("thinking_delta"), thinking=TEXT)
        | st.dictionaries(st.sampled_from(BLOCK_FIELDS), ANY, max_size=3)
        | ANY,
    },
    optional={"index": st.just(0), "usage": USAGE, "error": NOTHING, "content_block": ANY, "role": ANY, "content": ANY},
)
BEGIN_CHAT = {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
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


@given(st.sampled_from([[], [BEGIN_CHAT]]), st.lists(CHUNK, max_size=6))
@settings(max_examples=400)
def test_openai(begin: list[object], events: list[object]) -> None:
    short, tolerant = (
        read(reply(question(), Failures("openai", [])), [*begin, *events], b"data: [DONE]\n\n")
        for reply in (ChatReply, TolerantChat)
    )
    assert short == tolerant


@given(st.sampled_from([[], [BEGIN_MESSAGE]]), st.lists(EVENT, max_size=6))
@settings(max_examples=400)
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
