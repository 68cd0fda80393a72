"""1. Characters that no database stores: NUL, and halves of surrogate pairs."""

import pytest

from aiworkspace.v1 import document_pb2 as pb
from tests.support.documents import find, read, read_text
from tests.support.people import Place

INPUTS = {
    "a.json": (
        rb'{"ke\u0000y\ud800": "va\u0000lue\ud800 of stone", "smile": "\ud83d\ude00 last"}',
        "key: value of stone\nsmile: \U0001f600 last",
    ),
    "a.txt": (b"one wo\0rd here, \0 and a last line\0", "one word here,  and a last line"),
}


@pytest.mark.parametrize("name", INPUTS)
async def test_nul_and_lone_surrogates_are_gone_and_offsets_agree(place: Place, name: str) -> None:
    data, text = INPUTS[name]
    document = await read(place.owner, place.workspace_id, data, name=name)
    assert document.state == pb.DOCUMENT_STATE_READY
    assert await read_text(place.owner, document.document_id) == text
    assert document.text_length == len(text)
    passage = await find(place.owner, document, text.split()[-1])  # behind all that was taken out
    assert text[passage.start : passage.end] == passage.text
