"""Takes out of answers and their events what citations say of a document that was deleted."""

from collections.abc import Iterator, Sequence
from typing import Any, cast
from uuid import UUID

from aiworkspace.v1 import chat_pb2 as pb

from ...conversations.models import Citation
from ...kit.mongo import Mongo
from .. import events
from ..models import EventBatch, Run, RunState

_QUOTING = ["citations", "first_events", "last_events"]


async def forget_document(mongo: Mongo, org_id: UUID, document_id: UUID) -> bool:
    """Leave ids and positions of the citations of a document, and nothing that was in it.

    Return False while a run is in progress that was given passages of it: its end may store some. May be repeated.
    """
    runs, batches = mongo.tenant("runs", org_id), mongo.tenant("run_events", org_id)
    quoting = {"citations": {"$elemMatch": {"document_id": document_id, "document_name": {"$ne": ""}}}}
    async for found in runs.find(quoting, _QUOTING).batch_size(10):
        run = cast(Run, found)
        async for batch in batches.find({"run_id": run["_id"]}, ["events"]).batch_size(10):
            changed = {"events": _without(cast(EventBatch, batch)["events"], document_id)}
            await batches.update({"_id": batch["_id"]}, {"$set": changed})
        await runs.update({"_id": run["_id"]}, {"$set": _forgotten(run, document_id)})
    reading = {"state": RunState.RUNNING, "sources.document_id": document_id}
    return await runs.find_one(reading, ["_id"]) is None


def _forgotten(run: Run, document_id: UUID) -> dict[str, Any]:
    """Return the changed fields of a run."""
    citations: list[Citation] = [
        {**each, "document_name": "", "place": {}, "quote": ""} if each["document_id"] == document_id else each
        for each in run.get("citations", [])
    ]
    return {
        "citations": citations,
        "first_events": _without(run["first_events"], document_id),
        "last_events": _without(run["last_events"], document_id),
    }


def _without(stored: Sequence[bytes], document_id: UUID) -> list[bytes]:
    return [_event_without(data, document_id) for data in stored]


def _event_without(data: bytes, document_id: UUID) -> bytes:
    response = pb.SendMessageResponse.FromString(data)
    found = [each for each in _citations(response.event) if each.document_id == str(document_id)]
    for citation in found:
        for field in ("document_name", "place", "quote"):
            citation.ClearField(field)
    return response.SerializeToString() if found else data


def _citations(event: pb.ChatEvent) -> Iterator[pb.Citation]:
    if event.HasField("citation_added"):
        yield event.citation_added.citation
    kind = event.WhichOneof("event")
    if kind in events.TERMINAL_NAMES:
        yield from getattr(event, kind).message.citations
