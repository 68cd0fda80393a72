"""What is left of citations of a document that was deleted."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from aiworkspace_server.app import App
from aiworkspace_server.runs.citations.forgetting import forget_document, quoting, reading
from tests.standin import Script, Standin
from tests.support.people import Place
from tests.support.runs import OPENAI, messages_of, play, say
from tests.support.sources import MARS, MOON, Library, make_source, read_all


@pytest.mark.parametrize("where", [quoting, reading], ids=lambda each: each.__name__)
async def test_runs_of_a_document_can_be_found_by_an_index(app: App, place: Place, where: Any) -> None:
    """Whether MongoDB takes it depends on how many runs there are; if it could not, it would not weigh it."""
    query = {"org_id": UUID(place.org_id), **where(UUID(int=1))}
    assert "s.document_id_1" in str((await app.mongo.database["runs"].find(query).explain())["queryPlanner"])


async def test_documents_that_are_forgotten_at_once_all_are(
    app: App, place: Place, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    await read_all(place)
    sources = [await make_source(place.owner, place.workspace_id, text, start=100) for text in (MOON, MARS)]
    Library(sources).serve(app, monkeypatch)
    model = play(standin, OPENAI, Script(tokens=("The Moon is far [1]. Mars has moons [2].",)))
    await say(place.owner, place.conversation_id, "Tell me.", model=model)
    assert all(citation.quote for citation in (await messages_of(place))[-1].citations)
    ids = [source.document_id for source in sources]
    assert await asyncio.gather(*(forget_document(app.mongo, UUID(place.org_id), id) for id in ids * 5)) == [True] * 10
    citations = (await messages_of(place))[-1].citations
    assert [(each.document_id, each.document_name, each.quote) for each in citations] == [
        (str(id), "", "") for id in ids
    ]
