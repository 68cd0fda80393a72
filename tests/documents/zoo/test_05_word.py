"""5. A DOCX with what is easily lost or mixed up: tables, a table in a cell, a footnote, deleted text."""

from aiworkspace.v1 import document_pb2 as pb
from tests.support import files
from tests.support.documents import find, read, read_text, search
from tests.support.people import Place


async def test_docx_is_read_in_order_with_its_notes_and_without_deleted_text(place: Place) -> None:
    document = await read(place.owner, place.workspace_id, files.guide(), name="guide.docx")
    assert document.state == pb.DOCUMENT_STATE_READY
    assert await read_text(place.owner, document.document_id) == files.GUIDE
    for words in ("inner one", "the note", "kept added"):
        assert list((await find(place.owner, document, words)).place.headings) == ["Guide"]
    assert not any("removed" in each.text for each in await search(place.owner, place.workspace_id, "removed"))
