"""8. A run of letters without a space. `make bench` measures how long it takes."""

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.embedding import local
from tests.support import files
from tests.support.documents import find, read, read_text
from tests.support.people import Place
from tests.support.postgres import sql
from tests.support.stores import Stores

MOST_CHARACTERS = 4_000


async def test_long_run_of_letters_is_cut_within_both_limits_and_its_ends_are_found(
    place: Place, stores: Stores
) -> None:
    text = f"The walrus sleeps in the north. {files.letters(300_000)} The penguin walks in the south."
    document = await read(place.owner, place.workspace_id, text.encode())
    assert document.state == pb.DOCUMENT_STATE_READY
    assert await read_text(place.owner, document.document_id) == text
    query = "SELECT start_offset, end_offset, token_count FROM chunks WHERE version_id = %s ORDER BY number"
    chunks = await sql(stores, query, document.version_id)
    assert len(chunks) == document.chunk_count
    assert all(0 < end - start <= MOST_CHARACTERS and tokens <= local.WINDOW for start, end, tokens in chunks)
    assert "".join(text[start:end] for start, end, _ in chunks).replace(" ", "") == text.replace(" ", "")
    for words in ("walrus sleeps", "penguin walks"):
        await find(place.owner, document, words)
