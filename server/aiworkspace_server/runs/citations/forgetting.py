"""Takes out of answers and their events what citations say of a document that was deleted."""

from collections.abc import Iterator, Sequence
from typing import cast
from uuid import UUID

from aiworkspace.v1 import chat_pb2 as pb

from ...conversations.models import Citation
from ...kit.mongo import Filter, Mongo
from .. import events
from ..models import EventBatch, Run, RunState, StoredSource

_QUOTING = ["citations", "first_events", "last_events"]


def quoting(document_id: UUID) -> Filter:
    """Match runs whose answers say something of a document. The first condition is what the index answers."""
    words = {"document_id": document_id, "document_name": {"$ne": ""}}
    return {"citations.document_id": document_id, "citations": {"$elemMatch": words}}


def reading(document_id: UUID) -> Filter:
    """Match runs in progress that were given passages of a document."""
    return {"sources.document_id": document_id, "state": RunState.RUNNING}


async def forget_document(mongo: Mongo, org_id: UUID, document_id: UUID) -> bool:
    """Leave ids and positions of the citations of a document, and nothing that was in it.

    Return False while a run is in progress that was given passages of it: its end may store some more. May be repeated.
    """
    forgetting = _Forgetting(mongo, org_id, document_id)
    # Asked before the answers, because a run that ends meanwhile has become one of them.
    in_progress = await forgetting.list_ids(reading(document_id))
    for run_id in in_progress:
        await forgetting.forget_sources(run_id)
    for run_id in await forgetting.list_ids(quoting(document_id)):
        await forgetting.forget_answer(run_id)
    return not in_progress


class _Forgetting:
    """Changes runs and batches of events only as they were read, and again if somebody else has changed them."""

    def __init__(self, mongo: Mongo, org_id: UUID, document_id: UUID) -> None:
        self._runs = mongo.tenant("runs", org_id)
        self._batches = mongo.tenant("run_events", org_id)
        self._document_id = document_id

    async def list_ids(self, where: Filter) -> list[UUID]:
        return [run["_id"] async for run in self._runs.find(where, ["_id"])]

    async def forget_sources(self, run_id: UUID) -> None:
        """Let a run have empty passages: a server that takes it over gives the model no more of them."""
        own = {"_id": run_id, **reading(self._document_id)}
        while run := await self._runs.find_one(own, ["sources"]):
            left = [self._empty(source) for source in cast(list[StoredSource], run["sources"])]
            if left == run["sources"] or await self._runs.update(
                {"_id": run_id, "sources": run["sources"]}, {"$set": {"sources": left}}
            ):
                break
        await self._forget_batches(run_id)

    async def forget_answer(self, run_id: UUID) -> None:
        await self._forget_batches(run_id)
        while found := await self._runs.find_one({"_id": run_id, **quoting(self._document_id)}, _QUOTING):
            run = cast(Run, found)
            citations = [self._silent(citation) for citation in run.get("citations", [])]
            changed = {"citations": citations} | {
                name: self._without(run[name]) for name in ("first_events", "last_events")
            }
            await self._runs.update({"_id": run_id, "citations": run["citations"]}, {"$set": changed})

    async def _forget_batches(self, run_id: UUID) -> None:
        async for batch in self._batches.find({"run_id": run_id}, ["events"]).batch_size(10):
            found: EventBatch | None = cast(EventBatch, batch)
            while found and (left := self._without(found["events"])) != found["events"]:
                as_read = {"_id": found["_id"], "events": found["events"]}
                if await self._batches.update(as_read, {"$set": {"events": left}}):
                    break
                found = cast(EventBatch | None, await self._batches.find_one({"_id": found["_id"]}, ["events"]))

    def _empty(self, source: StoredSource) -> StoredSource:
        gone = source["document_id"] == self._document_id
        return {**source, "document_name": "", "place": {}, "text": ""} if gone else source

    def _silent(self, citation: Citation) -> Citation:
        gone = citation["document_id"] == self._document_id
        return {**citation, "document_name": "", "place": {}, "quote": ""} if gone else citation

    def _without(self, stored: Sequence[bytes]) -> list[bytes]:
        return [self._event_without(data) for data in stored]

    def _event_without(self, data: bytes) -> bytes:
        response = pb.SendMessageResponse.FromString(data)
        found = [each for each in _citations(response.event) if each.document_id == str(self._document_id)]
        if not any(citation.document_name or citation.quote for citation in found):
            return data
        for citation in found:
            for field in ("document_name", "place", "quote"):
                citation.ClearField(field)
        return response.SerializeToString()


def _citations(event: pb.ChatEvent) -> Iterator[pb.Citation]:
    if event.HasField("citation_added"):
        yield event.citation_added.citation
    kind = event.WhichOneof("event")
    if kind in events.TERMINAL_NAMES:
        yield from getattr(event, kind).message.citations
