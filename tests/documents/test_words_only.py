"""A server without an embedding model, whose searches find words only."""

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import running
from aiworkspace_server.settings import Settings
from tests.support.documents import find, read
from tests.support.people import new_place, people
from tests.support.settings import store_settings
from tests.support.stores import Stores, other_databases


async def test_what_no_search_could_find_is_not_ready(stores: Stores) -> None:
    values = store_settings(await other_databases(stores, "words_only")) | {"embedding_model": "none"}
    async with running(Settings.model_validate(values), migrating=True) as app, people(app.address) as new_person:
        place = await new_place(new_person)
        found = await read(place.owner, place.workspace_id, b"The heron and the of.")
        assert found.state == pb.DOCUMENT_STATE_READY
        await find(place.owner, found, "heron")
        for text in (b"the of and", "— — —".encode()):
            document = await read(place.owner, place.workspace_id, text)
            assert document.state == pb.DOCUMENT_STATE_FAILED, text
            assert document.failure_reason == pb.FAILURE_REASON_NO_TEXT
