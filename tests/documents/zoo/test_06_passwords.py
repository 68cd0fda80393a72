"""6. PDFs with passwords: the owner's restricts printing and the like, the user's encrypts the text."""

from aiworkspace.v1 import document_pb2 as pb
from tests.support import files
from tests.support.documents import find, read, search
from tests.support.people import Place


async def test_pdf_with_an_owner_password_is_read_and_one_with_a_user_password_is_encrypted(place: Place) -> None:
    restricted = await read(place.owner, place.workspace_id, files.pdf("open text", owner_password="x"), name="a.pdf")
    assert restricted.state == pb.DOCUMENT_STATE_READY
    assert (await find(place.owner, restricted, "open text")).place == pb.Place(page=1)
    locked = await read(place.owner, place.workspace_id, files.pdf("secret", user_password="x"), name="b.pdf")
    assert (locked.state, locked.failure_reason) == (pb.DOCUMENT_STATE_FAILED, pb.FAILURE_REASON_ENCRYPTED)
    found = await search(place.owner, place.workspace_id, "secret")
    assert {each.document_id for each in found} <= {restricted.document_id}
