"""3. Archives that unpack to far more than they are."""

import pytest

from aiworkspace.v1 import document_pb2 as pb
from tests.support import files
from tests.support.documents import read, search
from tests.support.people import Place

NAMES = {"inflated": "bomb.docx", "entities": "bomb.docx", "members": "bomb.epub"}


@pytest.mark.parametrize("bomb", NAMES)
async def test_archive_bomb_fails_in_bounded_memory(place: Place, peaks: dict[str, int], bomb: str) -> None:
    document = await read(place.owner, place.workspace_id, files.bombs()[bomb], name=NAMES[bomb])
    assert (document.state, document.chunk_count) == (pb.DOCUMENT_STATE_FAILED, 0)
    assert document.failure_reason == pb.FAILURE_REASON_EXPANDS_TOO_FAR
    assert document.steps[2].attempt_count == 1  # another attempt would not help
    assert 0 < peaks[NAMES[bomb]] < 512 * files.MIB
    assert await search(place.owner, place.workspace_id, "x") == []
