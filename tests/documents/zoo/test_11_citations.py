"""11. A model whose markers are partly true, and two documents that were uploaded.

More about citations is in tests/runs/test_citations.py.
"""

import pytest

from aiworkspace.v1 import document_pb2 as pb
from tests.standin import Script, Standin
from tests.support.documents import read, read_text
from tests.support.people import Place
from tests.support.runs import ANTHROPIC, OPENAI, events_of, messages_of, play, send, text_of
from tests.support.sources import MARKED, MARS, MOON, SENT, citations_of, read_all


@pytest.mark.parametrize("model", [OPENAI, ANTHROPIC])
async def test_only_true_citations_of_uploaded_documents_are_kept(model: str, place: Place, standin: Standin) -> None:
    moon, mars = [
        await read(place.owner, place.workspace_id, text.encode(), name=name)
        for name, text in (("Moon.txt", MOON), ("Mars.txt", MARS))
    ]
    await read_all(place)
    question = "How far away is the Moon, in km, and has it air?"
    events = await events_of(send(place, question, model=play(standin, model, Script(tokens=MARKED))))
    assert text_of(events) == SENT
    found = [(SENT[each.start : each.end], each.document_name, each.quote) for each in citations_of(events)]
    assert found == [
        ("The Moon is far", "Moon.txt", "The Moon is 384,400 km away."),
        ("Mars has moons", "Moon.txt", "It has no air."),
        ("Mars has moons", "Mars.txt", "Mars has two moons."),
        ("Its day is long", "Mars.txt", "Its day lasts 24.6 hours."),
        ("True:", "Moon.txt", "It has no air"),
    ]
    assert events[-1].run_completed.dropped_citation_count == 2
    by_name = {"Moon.txt": moon, "Mars.txt": mars}
    for each in citations_of(events):
        document = by_name[each.document_name]
        assert (each.document_id, each.version_id) == (document.document_id, document.version_id)
        span = each.quote_end - each.quote_start
        quoted = await read_text(place.owner, each.document_id, offset=each.quote_start, length=span)
        assert quoted == each.quote
        assert each.place == pb.Place(line=1)
    assert list((await messages_of(place))[-1].citations) == citations_of(events)
