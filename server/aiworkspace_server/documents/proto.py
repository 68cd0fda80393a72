"""Documents in the contract's messages."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from aiworkspace.v1 import document_pb2 as pb

from ..kit.slices import in_slices
from ..kit.timestamps import timestamp
from ..parsing.text import Block
from ..search.models import Hit, LeftOut
from . import models
from .models import DocumentStep, DocumentVersion, Reason, Step, Upload
from .store import FoundDocument

_MOST_UNREAD_PAGES = 1000


def upload_to_proto(upload: Upload, committed_bytes: int) -> pb.Upload:
    return pb.Upload(
        upload_id=str(upload.id),
        workspace_id=str(upload.workspace_id),
        name=upload.name,
        size_bytes=upload.size_bytes,
        committed_bytes=committed_bytes,
        document_id=str(upload.document_id or ""),
        create_time=timestamp(upload.create_time),
        expire_time=timestamp(upload.expire_time),
    )


def document_to_proto(found: FoundDocument) -> pb.Document:
    document, version = found.document, found.version
    steps = {step.step: step for step in found.steps}
    return pb.Document(
        document_id=str(document.id),
        workspace_id=str(document.workspace_id),
        name=document.name,
        size_bytes=found.blob.size_bytes,
        sha256=found.blob.sha256.hex(),
        collection_ids=map(str, found.collection_ids),
        user_id=str(document.user_id),
        create_time=timestamp(document.create_time),
        update_time=timestamp(document.update_time),
        etag=str(document.version),
        version=version.number,
        version_id=str(version.id),
        state=pb.DocumentState.Value(f"DOCUMENT_STATE_{version.state.name}"),
        failure_reason=_reason_to_proto(version.reason),
        steps=[_step_to_proto(step, steps.get(step)) for step in Step],
        media_type=version.media_type,
        text_length=version.text_length,
        page_count=version.page_count,
        unread_pages=version.unread_pages[:_MOST_UNREAD_PAGES],
        chunk_count=version.chunk_count,
        ready_version=found.ready_number or 0,
    )


def _step_to_proto(name: Step, step: DocumentStep | None) -> pb.StepProgress:
    progress = pb.StepProgress(step=pb.IngestionStep.Value(f"INGESTION_STEP_{name.name}"))
    if step:
        progress.start_time.CopyFrom(timestamp(step.start_time))
        if step.end_time:
            progress.end_time.CopyFrom(timestamp(step.end_time))
        progress.attempt_count, progress.fraction = step.attempt_count, step.fraction
        progress.failure_reason = _reason_to_proto(step.reason)
    return progress


def _reason_to_proto(reason: Reason | None) -> pb.FailureReason.ValueType:
    return pb.FailureReason.Value(f"FAILURE_REASON_{reason.name if reason else 'UNSPECIFIED'}")


def place_to_proto(place: Mapping[str, Any]) -> pb.Place:
    return pb.Place(**place)


async def add_blocks(response: pb.GetDocumentTextResponse, blocks: Iterable[Block]) -> None:
    """Add blocks to a response: tens of thousands, if they are small. Other tasks run in between."""
    async for block in in_slices(blocks):
        response.blocks.append(pb.Block(start=block.start, end=block.end, place=place_to_proto(block.place)))


def passage_to_proto(hit: Hit, version: DocumentVersion, document_name: str) -> pb.Passage:
    return pb.Passage(
        document_id=str(hit.document_id),
        document_name=document_name,
        version=version.number,
        start=hit.start,
        end=hit.end,
        text=hit.text,
        place=place_to_proto(hit.place),
        score=hit.score,
    )


def omissions_to_proto(left_out: Collection[LeftOut]) -> list[pb.SearchOmission.ValueType]:
    return sorted(pb.SearchOmission.Value(f"SEARCH_OMISSION_{each.name}") for each in left_out)


def collection_to_proto(collection: models.Collection) -> pb.Collection:
    return pb.Collection(
        collection_id=str(collection.id),
        workspace_id=str(collection.workspace_id),
        name=collection.name,
        description=collection.description,
        create_time=timestamp(collection.create_time),
        update_time=timestamp(collection.update_time),
        etag=str(collection.version),
    )
