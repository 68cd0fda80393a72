"""Documents from their upload to the search that finds them: steps, versions, failures, deletions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from pymongo.errors import AutoReconnect

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.documents.claims import Claim, ClaimLost
from aiworkspace_server.documents.models import Step
from aiworkspace_server.documents.proto import add_blocks
from aiworkspace_server.documents.steps import Steps
from aiworkspace_server.kit.errors import Unavailable
from aiworkspace_server.kit.stores import StoreFull
from aiworkspace_server.parsing.text import Block
from tests.support.documents import download, get, read, read_text, replace, search, upload, watch
from tests.support.loop_time import watching_loop
from tests.support.outcomes import INVALID, NOT_FOUND, outcome, refusal
from tests.support.people import Person, Place, make_workspace
from tests.support.postgres import sql
from tests.support.stores import Stores
from tests.support.waiting import until

READY, FAILED, PROCESSING = pb.DOCUMENT_STATE_READY, pb.DOCUMENT_STATE_FAILED, pb.DOCUMENT_STATE_PROCESSING
STEPS = [value for value in pb.IngestionStep.values() if value]
GERMAN = "Die Fledermaus schläft am Tag. Nachts jagt sie Insekten über dem Fluss.".encode()


def reindex(person: Person, workspace_id: str, *ids: str) -> Any:
    request = pb.ReindexDocumentsRequest(workspace_id=workspace_id, document_ids=ids)
    return person.documents.ReindexDocuments(request)


@asynccontextmanager
async def not_read(stores: Stores, document_id: str) -> AsyncIterator[None]:
    """Keep every worker from the latest version of a document: it is claimed only if nobody has locked its row."""
    where = "WHERE document_id = %s AND state = 'processing'"
    async with await psycopg.AsyncConnection.connect(stores.libpq) as owner:
        await owner.execute(f"SELECT FROM document_versions {where} FOR UPDATE", (document_id,))
        yield
        await owner.rollback()


async def test_a_document_passes_all_steps_and_is_found(place: Place) -> None:
    document = await read(place.owner, place.workspace_id, GERMAN, name="bat.txt")
    assert (document.state, document.version, document.ready_version) == (READY, 1, 1)
    assert (document.media_type, document.chunk_count) == ("text/plain", 1)
    assert [step.step for step in document.steps] == STEPS
    for step in document.steps:
        assert step.HasField("start_time")
        assert step.HasField("end_time")
        assert (step.attempt_count, step.fraction, step.failure_reason) == (1, 1.0, 0)
    [passage] = await search(place.owner, place.workspace_id, "Was jagt die Fledermaus?")
    assert (passage.document_id, passage.document_name, passage.version) == (document.document_id, "bat.txt", 1)
    text = await read_text(place.owner, document.document_id)
    assert text[passage.start : passage.end] == passage.text
    assert document.text_length == len(text)


async def test_watching_ends_with_the_document_ready(place: Place) -> None:
    document = await upload(place.owner, place.workspace_id, GERMAN)
    assert document.state == PROCESSING
    seen = await watch(place.owner, document.document_id)
    assert seen[-1].state == READY
    assert all(each.state == PROCESSING for each in seen[:-1])
    assert await watch(place.owner, document.document_id) == seen[-1:]


async def test_watching_ends_when_the_document_is_deleted(stores: Stores, place: Place) -> None:
    document = await upload(place.owner, place.workspace_id, GERMAN)
    async with not_read(stores, document.document_id):
        watching = place.owner.documents.WatchDocument(pb.WatchDocumentRequest(document_id=document.document_id))
        await watching.read()
    await place.owner.documents.DeleteDocument(pb.DeleteDocumentRequest(document_id=document.document_id))

    async def rest() -> None:
        async for _ in watching:
            pass

    assert await outcome(rest()) == NOT_FOUND


async def test_the_old_version_answers_until_the_new_one_is_ready(stores: Stores, place: Place) -> None:
    document = await read(place.owner, place.workspace_id, b"The walrus lives in the north.")
    replaced = await replace(place.owner, document.document_id, b"The penguin lives in the south.")
    async with not_read(stores, document.document_id):
        found = (await get(place.owner, document.document_id)).document
        if found.state == PROCESSING:  # a worker may have been faster than the lock
            assert (found.version, found.ready_version) == (2, 1)
            assert [each.version for each in await search(place.owner, place.workspace_id, "walrus")] == [1]
            assert await read_text(place.owner, document.document_id) == "The walrus lives in the north."
    assert await download(place.owner, document.document_id) == b"The penguin lives in the south."
    last = (await watch(place.owner, document.document_id))[-1]
    assert (last.state, last.version, last.ready_version) == (READY, 2, 2)
    assert replaced.document_id == document.document_id
    assert [each.version for each in await search(place.owner, place.workspace_id, "penguin")] == [2]
    assert "walrus" not in "".join(each.text for each in await search(place.owner, place.workspace_id, "walrus"))
    gone = pb.GetDocumentTextRequest(document_id=document.document_id, version=1)
    assert await outcome(place.owner.documents.GetDocumentText(gone)) == NOT_FOUND


async def test_a_version_that_fails_leaves_the_old_one_answering(place: Place) -> None:
    document = await read(place.owner, place.workspace_id, b"The walrus lives in the north.")
    await replace(place.owner, document.document_id, b"\x00\x01\x02\x03" * 100)
    last = (await watch(place.owner, document.document_id))[-1]
    assert (last.state, last.failure_reason) == (FAILED, pb.FAILURE_REASON_UNSUPPORTED)
    assert (last.version, last.ready_version) == (2, 1)
    assert len(await search(place.owner, place.workspace_id, "walrus")) == 1
    await replace(place.owner, document.document_id, b"The seal lives in the west.")
    last = (await watch(place.owner, document.document_id))[-1]
    assert (last.state, last.version, last.ready_version) == (READY, 3, 3)


async def test_only_failed_documents_are_retried(place: Place) -> None:
    def retry(document_id: str) -> Any:
        return place.owner.documents.RetryDocument(pb.RetryDocumentRequest(document_id=document_id))

    ready = await read(place.owner, place.workspace_id, GERMAN)
    refused = await refusal(retry(ready.document_id))
    assert refused
    assert (refused.code, refused.reason) == ("FAILED_PRECONDITION", "DOCUMENT_NOT_FAILED")
    assert refused.metadata == {"state": "READY"}
    failed = await read(place.owner, place.workspace_id, b"\x00\x01\x02\x03" * 100, name="x.bin")
    assert (failed.state, failed.steps[2].failure_reason) == (FAILED, pb.FAILURE_REASON_UNSUPPORTED)
    assert failed.steps[2].attempt_count == 1  # another attempt would not help
    assert (await retry(failed.document_id)).document.state == PROCESSING
    again = (await watch(place.owner, failed.document_id))[-1]
    assert (again.state, again.steps[2].failure_reason) == (FAILED, pb.FAILURE_REASON_UNSUPPORTED)


async def test_a_worker_that_was_taken_for_dead_changes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    do, claimed = Steps.do, list[tuple[Steps, Claim]]()

    async def note(steps: Steps, claim: Claim, step: Step) -> None:
        if claim.version.workspace_id == UUID(place.workspace_id):
            claimed.append((steps, claim))
        await do(steps, claim, step)

    monkeypatch.setattr(Steps, "do", note)
    await read(place.owner, place.workspace_id, b"The walrus lives in the north.")
    for step in (Step.CHUNKED, Step.INDEXED):
        with pytest.raises(ClaimLost):
            await do(*claimed[0], step)
    assert len(await search(place.owner, place.workspace_id, "walrus")) == 1


async def test_attempts_that_a_store_ends_do_not_count(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    do, failed = Steps.do, dict[UUID, Exception]()
    outages: list[Exception] = [AutoReconnect(), psycopg.errors.DiskFull(), StoreFull(), Unavailable("S3", 1)]

    async def fail(steps: Steps, claim: Claim, step: Step) -> None:
        if step == Step.CHUNKED and str(claim.org_id) == place.org_id and claim.version.id not in failed:
            failed[claim.version.id] = outages.pop()
            raise failed[claim.version.id]
        await do(steps, claim, step)

    monkeypatch.setattr(Steps, "do", fail)
    documents = [await upload(place.owner, place.workspace_id, b"word %d" % number) for number in range(4)]
    lasts = [(await watch(place.owner, each.document_id))[-1] for each in documents]
    assert outages == []
    assert [each.state for each in lasts] == [READY] * 4
    assert {step.attempt_count for each in lasts for step in each.steps} == {1}


async def test_documents_are_read_again(place: Place) -> None:
    first, second = [await read(place.owner, place.workspace_id, b"word %d" % n) for n in range(2)]
    assert (await reindex(place.owner, place.workspace_id, first.document_id)).document_count == 1
    last = (await watch(place.owner, first.document_id))[-1]
    assert (last.state, last.version, last.ready_version) == (READY, 2, 2)
    assert (await get(place.owner, second.document_id)).document.version == 1
    assert (await reindex(place.owner, place.workspace_id)).document_count == 2
    for document, version in ((first, 3), (second, 2)):
        assert (await watch(place.owner, document.document_id))[-1].ready_version == version
    other = await make_workspace(place.owner, place.org_id)
    assert (await reindex(place.owner, other, first.document_id)).document_count == 0


async def test_room_is_counted_once_for_equal_bytes_of_a_document(stores: Stores, place: Place) -> None:
    async def used() -> tuple[int, int]:
        query = "SELECT size_bytes, document_count FROM document_usage WHERE org_id = %s"
        [row] = await sql(stores, query, place.org_id)
        return row

    document = await read(place.owner, place.workspace_id, b"twelve bytes")
    assert await used() == (12, 1)
    await replace(place.owner, document.document_id, b"twelve bytes")
    await watch(place.owner, document.document_id)
    assert await used() == (12, 1)
    await reindex(place.owner, place.workspace_id)
    await watch(place.owner, document.document_id)
    assert await used() == (12, 1)
    await replace(place.owner, document.document_id, b"five!")
    await watch(place.owner, document.document_id)
    assert await used() == (5, 1)
    await place.owner.documents.DeleteDocument(pb.DeleteDocumentRequest(document_id=document.document_id))
    assert await used() == (0, 0)


@pytest.mark.parametrize("ready", [True, False])
async def test_a_deleted_document_is_unfound_at_once_and_leaves_nothing(
    app: App, stores: Stores, place: Place, ready: bool
) -> None:
    document = await upload(place.owner, place.workspace_id, GERMAN)
    if ready:
        await watch(place.owner, document.document_id)
    [(version,)] = await sql(stores, "SELECT id FROM document_versions WHERE document_id = %s", document.document_id)
    await place.owner.documents.DeleteDocument(pb.DeleteDocumentRequest(document_id=document.document_id))
    assert not await search(place.owner, place.workspace_id, "Fledermaus")

    async def gone() -> bool:
        tables = await sql(stores, "SELECT table_name FROM information_schema.columns WHERE column_name = 'version_id'")
        counts = [
            (await sql(stores, f"SELECT count(*) FROM {table} WHERE version_id = %s", version))[0][0]
            for (table,) in tables
        ]
        [(left,)] = await sql(stores, "SELECT count(*) FROM document_versions WHERE id = %s", version)
        postings = await sql(stores, "SELECT FROM postings WHERE workspace_id = %s", place.workspace_id)
        texts = await app.mongo.database["document_texts"].count_documents({"version_id": UUID(str(version))})
        jobs = await sql(stores, "SELECT FROM procrastinate_jobs WHERE args::text LIKE %s", f"%{version}%")
        return not (any(counts) or left or postings or texts or jobs)

    await until(gone)


async def test_the_text_is_read_in_parts_and_never_cut_short(app: App, place: Place) -> None:
    words = " ".join(f"word{number:06d}" for number in range(8_000))
    document = await read(place.owner, place.workspace_id, words.encode())
    text = await read_text(place.owner, document.document_id)
    assert text == words
    assert await read_text(place.owner, document.document_id, offset=65_530, length=25) == words[65_530:65_555]
    beyond = pb.GetDocumentTextRequest(document_id=document.document_id, offset=len(text) + 1)
    refused = await refusal(place.owner.documents.GetDocumentText(beyond))
    assert refused
    assert (refused.code, refused.metadata) == ("OUT_OF_RANGE", {"text_length": str(len(text))})
    for query in ("word000000", "word007999"):
        assert any(query in each.text for each in await search(place.owner, place.workspace_id, query))
    across = pb.GetDocumentTextRequest(document_id=document.document_id, offset=65_000, length=1_000)
    for first_erased in (1, 0):  # of two pieces: the version ends while it is read
        where = {"version_id": UUID(document.version_id), "n": {"$gte": first_erased}}
        assert (await app.mongo.database["document_texts"].delete_many(where)).deleted_count == 1
        refused = await refusal(place.owner.documents.GetDocumentText(across))
        assert refused
        assert (refused.code, refused.message) == ("NOT_FOUND", "version: not found.")


async def test_many_small_blocks_hold_the_loop_shortly() -> None:
    blocks = [Block(4 * line, 4 * line + 3, {"line": line + 1}) for line in range(16_000)]
    response = pb.GetDocumentTextResponse()
    with watching_loop() as loop:
        await add_blocks(response, blocks)
    assert [(each.start, each.end, {"line": each.place.line}) for each in response.blocks] == blocks
    assert loop.longest < 0.02, (loop.longest, loop.what)


async def test_filters_select_documents(place: Place) -> None:
    made = pb.CreateCollectionRequest(workspace_id=place.workspace_id, name="Birds")
    collection_id = (await place.owner.documents.CreateCollection(made)).collection.collection_id
    inside = await read(place.owner, place.workspace_id, b"A heron waits.", name="a.md", collection_ids=[collection_id])
    outside = await read(place.owner, place.workspace_id, b"A heron flies.", name="b.txt")

    async def found(**fields: Any) -> set[str]:
        passages = await search(place.owner, place.workspace_id, "heron", filter=pb.SearchFilter(**fields))
        return {each.document_id for each in passages}

    assert await found() == {inside.document_id, outside.document_id}
    assert await found(collection_ids=[collection_id]) == {inside.document_id}
    assert await found(document_ids=[outside.document_id]) == {outside.document_id}
    assert await found(media_types=[inside.media_type]) == {inside.document_id}
    assert await found(start_time=outside.create_time) == {outside.document_id}
    assert await found(end_time=outside.create_time) == {inside.document_id}


async def test_similar_documents(place: Place) -> None:
    herons = [
        await read(place.owner, place.workspace_id, text) for text in (b"A heron eats fish.", b"Herons like fish.")
    ]
    await read(place.owner, place.workspace_id, b"Interest rates rose by a quarter point.")
    request = pb.GetSimilarRequest(document_id=herons[0].document_id, limit=1)
    similar = (await place.owner.documents.GetSimilar(request)).documents
    assert [each.document_id for each in similar] == [herons[1].document_id]


async def test_a_query_of_blanks_is_answered(place: Place) -> None:
    await read(place.owner, place.workspace_id, GERMAN)
    assert isinstance(await search(place.owner, place.workspace_id, "  "), list)
    assert await outcome(search(place.owner, place.workspace_id, "")) == INVALID


async def test_many_documents_are_read_at_the_same_time(place: Place) -> None:
    texts = [
        b"Document number %d speaks of the colour c%d." % (number, number) for number in range(16)
    ]  # as many uploads as a caller may have
    documents = await asyncio.gather(*(read(place.owner, place.workspace_id, text) for text in texts))
    assert {each.state for each in documents} == {READY}
    [first, *_] = await search(place.owner, place.workspace_id, "c7")
    assert first.document_id == documents[7].document_id
