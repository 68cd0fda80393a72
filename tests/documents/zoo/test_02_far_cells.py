"""2. A small workbook whose two cells are as far apart as they can be. `make bench` measures how long it takes."""

from aiworkspace.v1 import document_pb2 as pb
from tests.support import files
from tests.support.documents import find, read
from tests.support.people import Place


async def test_workbook_with_two_far_cells_is_read_in_little_memory(place: Place, peaks: dict[str, int]) -> None:
    data = files.far_cells()
    assert len(data) < 6_000
    document = await read(place.owner, place.workspace_id, data, name="far.xlsx")
    assert document.state == pb.DOCUMENT_STATE_READY
    assert 0 < peaks["far.xlsx"] < 300 * files.MIB
    for word, row in (("first", 1), ("last", 1_048_576)):
        passage = await find(place.owner, document, word)
        assert passage.place == pb.Place(sheet="S", first_row=row, last_row=row)
