"""Answers in which something is missing, null, or of another type: what can be understood comes out, and is billed."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace_server.llm.anthropic_wire import MessageReply
from aiworkspace_server.llm.base import Finish, ProviderError, TokenUsage
from aiworkspace_server.llm.failures import Failures
from aiworkspace_server.llm.openai_wire import ChatReply
from aiworkspace_server.llm.reply import Reply

from .answers import Answer, question

Event = dict[str, Any]
DROP = object()
NAN, HUGE = float("nan"), 10**400
ODD = [DROP, None, "x", "", 7, -1.5, NAN, HUGE, True, [], ["x"], [None, 3], {}, {"x": {"y": [1]}}, "\ud83d"]


def chunk(delta: Event | None = None, finish: str | None = None, usage: Event | None = None) -> Event:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    fixed = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**fixed, "choices": choices, "usage": usage}


CHAT_USAGE = {
    "prompt_tokens": 40,
    "completion_tokens": 9,
    "total_tokens": 49,
    "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
CHAT = [
    chunk({"role": "assistant", "content": "", "refusal": None}),
    chunk({"reasoning_content": "<thought 1>"}),
    chunk({"content": "<text 1>"}),
    chunk({"content": [{"type": "text", "text": "<text 2>"}]}),
    chunk({"content": "<text 3>"}),
    chunk({}, "stop"),
    chunk(usage=CHAT_USAGE),
]
MESSAGE = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [],
            "stop_reason": None,
            "usage": {"input_tokens": 32, "cache_read_input_tokens": 8, "output_tokens": 1},
        },
    },
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "<thought 1>"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "<text 1>"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "<text 2>"}},
    {"type": "content_block_stop", "index": 1},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 3}},
    },
    {"type": "message_stop"},
]
WHOLE = TokenUsage(40, 8, 0, 9, 3)


def paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place within a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inner:
        yield (*before, name)
        yield from paths(each, (*before, name))


def changed(events: list[Event], path: tuple[Any, ...], odd: object) -> list[Event]:
    events = copy.deepcopy(events)
    at: Any = events
    for name in path[:-1]:
        at = at[name]
    if odd is DROP:
        del at[path[-1]]
    else:
        at[path[-1]] = odd
    return events


def read(reply: Reply, events: list[Any], end: bytes = b"") -> Answer:
    """What comes of the events, with the failure if there is one."""
    data = b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + end
    result = Answer()
    result.error = reply.read(data) or (None if reply.ended else reply.close("end", clean=True))
    result.reads = [reply.take()]
    return result


def chat(events: list[Any], end: bytes = b"data: [DONE]\n\n") -> Answer:
    return read(ChatReply(question("word " * 30), Failures("openai", [])), events, end)


def message(events: list[Any], end: bytes = b"") -> Answer:
    return read(MessageReply(question("word " * 30), Failures("anthropic", [])), events, end)


FORMATS: dict[str, tuple[Callable[..., Answer], list[Any]]] = {"openai": (chat, CHAT), "anthropic": (message, MESSAGE)}
CHANGES = [(name, path) for name, (_, events) in FORMATS.items() for path in paths(events)]


def texts_in(value: Any) -> list[str]:
    """The texts of an answer that stand in a value."""
    return [mark for mark in ("<thought 1>", "<text 1>", "<text 2>", "<text 3>") if mark in json.dumps(value)]


@pytest.mark.parametrize("name", FORMATS)
def test_the_recorded_answer_is_read_as_it_is(name: str) -> None:
    ask, events = FORMATS[name]
    result = ask(events)
    thought, *texts = texts_in(events)
    assert (result.thinking, result.text, result.finish) == (thought, "".join(texts), "stop")
    assert result.usages[-1] == WHOLE


@pytest.mark.parametrize(("name", "path"), CHANGES, ids=[f"{name} {path}" for name, path in CHANGES])
def test_a_field_of_another_type_loses_no_more_than_itself(name: str, path: tuple[Any, ...]) -> None:
    ask, events = FORMATS[name]
    for odd in ODD:
        given_events = changed(events, path, odd)
        result = ask(given_events)
        assert result.error is None, (odd, result.error)
        assert isinstance(result.pieces[-1], Finish), odd
        said = result.text + result.thinking
        assert all(text in said for text in texts_in(given_events)), odd
        said.encode()  # no lone surrogates
        usage = result.usages[-1]
        assert usage.plausible
        assert usage.input_tokens > 0
        assert usage.output_tokens > 0
        if "usage" not in path and path not in ((0,), (0, "message"), (6,), (10,)):
            assert usage == WHOLE, odd


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "content",
                    "usage",
                    "message",
                    "type",
                    "text",
                    "thinking",
                    "error",
                    "id",
                    "prompt_tokens",
                    "completion_tokens",
                    "finish_reason",
                    "content_block",
                    "stop_reason",
                    "refusal",
                ]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(st.lists(JSON, max_size=5), st.sampled_from(sorted(FORMATS)))
def test_nothing_that_is_json_is_a_defect(documents: list[Any], name: str) -> None:
    result = FORMATS[name][0](documents)
    assert result.error is None or isinstance(result.error, ProviderError)
    (result.text + result.thinking).encode()


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_whole_is_complete_however_it_ends(name: str) -> None:
    """Without the usage after it, without the end mark, with a failure or an event of 2 MB after it."""
    last = 6 if name == "openai" else 11
    for more in ([], [{"error": {"message": "overloaded"}}], ["nonsense"], [{"padding": "x" * 2**21}]):
        result = FORMATS[name][0]([*FORMATS[name][1][:last], *more], b"")
        assert (result.finish, result.error) == ("stop", None)
        assert "<text 2>" in result.text
        assert result.usages[-1].output_tokens > 0


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_not_whole_is_cut(name: str) -> None:
    events = FORMATS[name][1][: 5 if name == "openai" else 10]
    result = FORMATS[name][0](events, b"")
    assert result.error is not None
    assert "<text 2>" in result.text
    assert not any(isinstance(piece, Finish) for piece in result.pieces)


def pieces_of(name: str, *escaped: str) -> Answer:
    """An answer whose text comes in these pieces, as they stand in JSON."""
    openai = '{"choices":[{"index":0,"delta":{"content":"%s"}}]}'
    anthropic = '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}}'
    template = openai if name == "openai" else anthropic
    data = "".join(f"data: {template % text}\n\n" for text in escaped)
    finish = CHAT[5] if name == "openai" else MESSAGE[10]
    reply = (ChatReply if name == "openai" else MessageReply)(question(), Failures(name, []))
    result = Answer()
    result.error = reply.read(f"{data}data: {json.dumps(finish)}\n\n".encode()) or reply.close("end", clean=True)
    result.reads = [reply.take()]
    return result


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (("Nice \\ud83d", "\\ude00 day"), "Nice 😀 day"),
        (("\\ud83d", "\\ude00", "\\ud83d", "\\ude00"), "😀😀"),
        (("\\ud83d\\ude00\\ud83d", "\\ude00!"), "😀😀!"),
        (("half \\ud83d lost", " and more"), "half \ufffd lost and more"),
        (("\\ude00 first", ""), "\ufffd first"),
        (("last \\ud83d",), "last \ufffd"),
        (("\\ud83d", "x"), "\ufffdx"),
        (("\\ud83d", "\\ud83d\\ude00"), "\ufffd😀"),
        (("\\u0000", "\\u202e"), "\0\u202e"),
    ],
)
def test_halves_of_characters_are_joined_or_replaced(name: str, pieces: tuple[str, ...], text: str) -> None:
    result = pieces_of(name, *pieces)
    assert (result.text, result.finish, result.error) == (text, "stop", None)


@pytest.mark.parametrize("name", FORMATS)
@given(pieces=st.lists(st.text(st.characters(), max_size=4), max_size=6))
def test_any_text_comes_out_as_unicode(name: str, pieces: list[str]) -> None:
    """The same as if it had come in one piece."""
    result = pieces_of(name, *(json.dumps(piece)[1:-1] for piece in pieces))
    whole = "".join(pieces).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert result.text == whole
