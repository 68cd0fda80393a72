"""A document that is read keeps nobody waiting: neither other organizations' documents, nor the event loop.

`make bench` measures how long they wait.
"""

from aiworkspace.v1 import document_pb2 as pb
from tests.support import files
from tests.support.documents import upload, watch
from tests.support.loop_time import watching_loop
from tests.support.people import NewPerson, Place, new_place

MANY = 60


async def test_single_document_is_ready_long_before_the_many_of_another_organization(
    place: Place, new_person: NewPerson
) -> None:
    other = await new_place(new_person)
    texts = [b"Document %d of many." % number for number in range(MANY)]
    many = [await upload(place.owner, place.workspace_id, text) for text in texts]
    single = await upload(other.owner, other.workspace_id, b"The only document.")
    last = (await watch(other.owner, single.document_id))[-1]
    lasts = [(await watch(place.owner, each.document_id))[-1] for each in many]
    assert {each.state for each in (last, *lasts)} == {pb.DOCUMENT_STATE_READY}
    ready = sorted(_end(each) for each in lasts)
    begun = last.steps[0].end_time.ToNanoseconds()
    waiting = [each for each in ready if each > begun]
    assert len(waiting) > MANY // 2, "most of them were waiting when the single one came"
    assert _end(last) < waiting[len(waiting) // 2]


async def test_long_pdf_holds_the_event_loop_shortly(place: Place) -> None:
    sentence = "Each line of this page says a little about the walrus, which sleeps in the far north. "
    data = files.pdf(*(f"Page {number}.\n" + f"{sentence}\n" * 12 for number in range(200)))
    document = await upload(place.owner, place.workspace_id, data, name="long.pdf")
    with watching_loop() as loop:
        last = (await watch(place.owner, document.document_id))[-1]
    assert (last.state, last.page_count) == (pb.DOCUMENT_STATE_READY, 200)
    assert loop.longest < 0.15, (loop.longest, loop.what)  # on the loop, any of the steps would take a second


def _end(document: pb.Document) -> int:
    return int(document.steps[-1].end_time.ToNanoseconds())
