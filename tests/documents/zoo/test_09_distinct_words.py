"""9. Two megabytes of words of which none occurs twice: a quarter of a million entries in the index.

The vectors come from the stand-in: the built-in model would need minutes for a million tokens.
"""

from collections.abc import AsyncIterator

import pytest

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace.v1 import usage_pb2
from aiworkspace_server.app import running
from aiworkspace_server.settings import Settings
from tests.standin import Standin
from tests.support import files
from tests.support.documents import find, read
from tests.support.ledger import ledger_of
from tests.support.people import Place, make_place, people
from tests.support.settings import provider_settings, store_settings
from tests.support.stores import Stores, other_databases

COUNT = 250_000


@pytest.fixture
async def remote_place(stores: Stores, standin: Standin) -> AsyncIterator[Place]:
    """A place on a server whose vectors come from a provider, and are short."""
    values = provider_settings(standin) | store_settings(await other_databases(stores, "distinct_words"))
    values |= {"embedding_model": "openai/text-embedding-3-small", "embedding_dimension": 16}
    async with running(Settings.model_validate(values), migrating=True) as app, people(app.address) as new_person:
        yield await make_place(await new_person())


async def test_first_and_last_of_many_distinct_words_are_found(remote_place: Place) -> None:
    data = files.distinct_words(COUNT).encode()
    assert len(data) > 1_990_000
    document = await read(remote_place.owner, remote_place.workspace_id, data)
    assert document.state == pb.DOCUMENT_STATE_READY
    for word in ("w000001", "w123456", f"w{COUNT}"):
        await find(remote_place.owner, document, word)
    entries = await ledger_of(remote_place, kinds=[usage_pb2.USAGE_ENTRY_KIND_SETTLE], page_size=100)
    settled = [each for each in entries if each.run_id == document.version_id]
    assert sum(each.tokens.input_tokens for each in settled) == COUNT, "each word is billed once"
    assert all(each.cost.nanos for each in settled)
