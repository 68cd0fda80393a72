"""10. Equal bytes: at the same moment, under two names, and other bytes under the same name.

That an organization keeps them once is in test_documents.py.
"""

import asyncio

from aiworkspace.v1 import document_pb2 as pb
from tests.support.documents import begin, download, find, messages, read, search, watch
from tests.support.outcomes import NOT_FOUND, outcome
from tests.support.people import Place

WALRUS, PENGUIN = b"The walrus sleeps in the north.", b"The penguin walks in the south."


async def test_twins_are_documents_of_their_own_and_one_answers_after_the_other_is_deleted(place: Place) -> None:
    ids = [await begin(place.owner, place.workspace_id, WALRUS, name=name) for name in ("one", "two", "one", "two")]
    uploads = [place.owner.documents.UploadDocument(messages(each, WALRUS)) for each in ids]
    twins = [response.document.document_id for response in await asyncio.gather(*uploads)]
    documents = [(await watch(place.owner, each))[-1] for each in twins]
    assert [each.state for each in documents] == [pb.DOCUMENT_STATE_READY] * 4
    assert {each.document_id for each in await search(place.owner, place.workspace_id, "walrus")} == set(twins)
    *others, last = documents
    for each in others:
        await place.owner.documents.DeleteDocument(pb.DeleteDocumentRequest(document_id=each.document_id))
    assert (await find(place.owner, last, "walrus")).document_name == "two"
    assert await download(place.owner, last.document_id) == WALRUS
    assert len(await search(place.owner, place.workspace_id, "walrus")) == 1
    gone = pb.GetDocumentTextRequest(document_id=others[0].document_id)
    assert await outcome(place.owner.documents.GetDocumentText(gone)) == NOT_FOUND


async def test_other_bytes_under_one_name_are_another_document(place: Place) -> None:
    first = await read(place.owner, place.workspace_id, WALRUS, name="animal.txt")
    second = await read(place.owner, place.workspace_id, PENGUIN, name="animal.txt")
    assert first.document_id != second.document_id
    await find(place.owner, first, "walrus")
    await find(place.owner, second, "penguin")
