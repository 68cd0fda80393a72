import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace_server.llm.sse import SseParser

STREAM = (
    b'\xef\xbb\xbfdata: {"a":1}\n\n'
    b": a comment\n\n"
    b"event: ping\nid: 7\nretry: 10\n\n"
    b"event: x\r\ndata:no space\r\ndata: but two lines\r\n\r\n"
    b"\n\ndata: first\ndata: second\ndata\ndata:  third\n\n"
    b"data\n\n"
    b"data: \xf0\x9f\x98\x80\r\r"
    b"database: no\nDATA: no\n\n"
    b"data: [DONE]\n\n"
    b"data: never finished\n"
)
EVENTS = [b'{"a":1}', b"no space\nbut two lines", b"first\nsecond\n\n third", b"\xf0\x9f\x98\x80", b"[DONE]"]


def feed(*pieces: bytes) -> list[bytes]:
    parser = SseParser()
    return [data for piece in pieces for data in parser.feed(piece)]


def test_every_rule_of_the_format() -> None:
    assert feed(STREAM) == EVENTS


@pytest.mark.parametrize("size", range(1, 12))
def test_pieces_of_any_size(size: int) -> None:
    assert feed(*(STREAM[at : at + size] for at in range(0, len(STREAM), size))) == EVENTS


@given(st.lists(st.integers(0, len(STREAM))))
def test_split_anywhere(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    assert feed(*(STREAM[start:end] for start, end in pairwise(places))) == EVENTS


@given(st.data())
def test_any_bytes_give_the_same_events_however_they_are_split(data: st.DataObject) -> None:
    alphabet = [b"data", b":", b" ", b"\n", b"\r", b"\n\n", b"x", b"\xef\xbb\xbf", b"\xff", b"data: x\r\n"]
    stream = b"".join(data.draw(st.lists(st.sampled_from(alphabet), max_size=40)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    places = [0, *cuts, len(stream)]
    assert feed(*(stream[start:end] for start, end in pairwise(places))) == feed(stream)


@given(
    st.sampled_from(
        [b"event: x", b"event:x", b"event: error", b"event:error", b"event: data", b"event", b"id: 1", b""]
    ),
    st.sampled_from([b"data: ", b"data:", b"data:  ", b"data"]),
    st.sampled_from([b"", b"{}", b'{"error": 1}', b"[DONE]", b"x: y"]),
)
def test_a_comment_in_an_event_changes_nothing(name: bytes, field: bytes, data: bytes) -> None:
    event = name + b"\n" + field + data + b"\n\n"
    assert feed(event) == feed(event[:-2] + b"\n: comment\n\n")


@given(st.lists(st.text()), st.sampled_from(["\n", "\r\n", "\r"]), st.integers(1, 30))
def test_json_comes_out_as_it_went_in(texts: list[str], newline: str, size: int) -> None:
    stream = "".join(f"data: {json.dumps(text, ensure_ascii=False)}{newline * 2}" for text in texts)
    encoded = stream.encode("utf-8", "replace")
    pieces = [encoded[at : at + size] for at in range(0, len(encoded), size)]
    expected = [text.encode("utf-8", "replace").decode() for text in texts]
    assert [json.loads(data) for data in feed(*pieces)] == expected


def test_an_event_comes_out_with_its_last_byte() -> None:
    parser = SseParser()
    assert parser.feed(b"data: x\n") == []
    assert parser.feed(b"\n") == [b"x"]
    assert parser.feed(b"data: y\r\n\r") == [b"y"]
    assert parser.feed(b"\ndata: z\r\r") == [b"z"]


def test_an_endless_event_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        feed(*[b"x" * 65536] * 225)
