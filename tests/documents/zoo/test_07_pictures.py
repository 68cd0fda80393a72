"""7. Pages that are pictures of text. A machine with tesseract reads them, see tests/parsing/test_parser.py."""

import shutil

import pytest

from aiworkspace.v1 import document_pb2 as pb
from tests.support import files
from tests.support.documents import find, read, search
from tests.support.people import Place

pytestmark = pytest.mark.skipif(shutil.which("tesseract") is not None, reason="tesseract reads the picture")
PICTURE = files.Picture("picture of text")


async def test_page_that_is_a_picture_is_named_as_unread(place: Place) -> None:
    data = files.pdf("text on a page", PICTURE, files.BLANK)
    document = await read(place.owner, place.workspace_id, data, name="a.pdf")
    assert document.state == pb.DOCUMENT_STATE_READY
    assert (document.page_count, list(document.unread_pages)) == (3, [2])
    assert (await find(place.owner, document, "text on a page")).place == pb.Place(page=1)


async def test_picture_alone_has_no_text_and_is_never_ready(place: Place) -> None:
    document = await read(place.owner, place.workspace_id, files.pdf(PICTURE), name="a.pdf")
    assert (document.state, document.failure_reason) == (pb.DOCUMENT_STATE_FAILED, pb.FAILURE_REASON_NO_TEXT)
    assert (document.chunk_count, document.ready_version) == (0, 0)
    assert await search(place.owner, place.workspace_id, "picture") == []
