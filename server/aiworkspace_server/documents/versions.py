"""Queries on versions of documents and their steps. The session sets the tenant, or the function that is called."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from ..kit.ids import new_id
from ..kit.postgres import ReadSession, WriteSession, any_of
from ..kit.timestamps import now
from .models import Blob, Document, DocumentStep, DocumentVersion, State, Step

_COUNT_UNREADY = text("SELECT step, state, count FROM count_unready_versions()")
_LIST_DUE_ORGS = text("SELECT org_id FROM list_due_orgs(:before, :limit) AS orgs(org_id)")
_LIST_ENDED = text("SELECT org_id, id FROM list_ended_versions(:before, :limit)")
_STEPS = list(Step)
_CLOCK_STEP = timedelta(milliseconds=1)


async def count_unready(tx: ReadSession) -> dict[tuple[Step, State], int]:
    """Return how many versions, of all organizations, are in each step and state, without those that are ready."""
    return {(Step(step), State(state)): count for step, state, count in await tx.execute(_COUNT_UNREADY)}


async def list_due_orgs(tx: ReadSession, before: datetime, limit: int) -> Sequence[UUID]:
    """Return the organizations with versions whose next step is due before a time."""
    return (await tx.execute(_LIST_DUE_ORGS, {"before": before, "limit": limit})).scalars().all()


async def list_ended(tx: ReadSession, before: datetime, limit: int) -> Sequence[tuple[UUID, UUID]]:
    """Return organization and id of versions that ended before a time."""
    return [(row.org_id, row.id) for row in await tx.execute(_LIST_ENDED, {"before": before, "limit": limit})]


async def add(
    tx: WriteSession, document: Document, blob_id: UUID, media_type: str = "", later_than: datetime | None = None
) -> DocumentVersion:
    """Add a version to a locked document, and make it the latest. It is received, and the next step is due.

    `media_type` is its kind of text if that is known. Its create_time is after `later_than`, also if the clock of this
    server is behind.
    """
    numbers = select(func.max(DocumentVersion.number)).where(DocumentVersion.document_id == document.id)
    time, last = now(), (await tx.execute(numbers)).scalar_one()
    version = DocumentVersion(
        org_id=document.org_id,
        id=new_id(),
        workspace_id=document.workspace_id,
        document_id=document.id,
        number=(last or 0) + 1,
        blob_id=blob_id,
        state=State.PROCESSING,
        step=Step.CHECKED,
        due_time=time,
        media_type=media_type,
        language="",
        text_length=0,
        page_count=0,
        unread_pages=[],
        chunk_count=0,
        create_time=max(time, later_than + _CLOCK_STEP) if later_than else time,
    )
    tx.add(version)
    await tx.flush()
    received = DocumentStep(
        org_id=document.org_id,
        version_id=version.id,
        step=Step.RECEIVED,
        attempt_count=1,
        start_time=time,
        end_time=time,
        fraction=1.0,
    )
    tx.add(received)
    document.latest_version_id = version.id
    return version


async def declare(tx: WriteSession, document_id: UUID, media_type: str) -> None:
    """Record the kind of text of a new document's only version."""
    here = DocumentVersion.document_id == document_id
    await tx.execute(update(DocumentVersion).where(here).values(media_type=media_type))


async def claim(tx: WriteSession, claim_id: UUID) -> tuple[DocumentVersion, DocumentStep] | None:
    """Claim the version of the organization that is due first, and count an attempt of its step."""
    due = (
        select(DocumentVersion.id)
        .where(DocumentVersion.state == State.PROCESSING, DocumentVersion.due_time <= now())
        .order_by(DocumentVersion.due_time, DocumentVersion.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if (found := (await tx.execute(due)).scalar_one_or_none()) is None:
        return None
    changed = update(DocumentVersion).where(DocumentVersion.id == found).values(claim_id=claim_id)
    version = (await tx.execute(changed.returning(DocumentVersion))).scalar_one()
    key = {"org_id": version.org_id, "version_id": version.id, "step": version.step}
    begin = insert(DocumentStep).values(**key, attempt_count=1, start_time=now(), fraction=0.0)
    more = begin.on_conflict_do_update(
        index_elements=list(key), set_={"attempt_count": DocumentStep.attempt_count + 1}
    ).returning(DocumentStep)
    return version, (await tx.execute(more)).scalar_one()


async def lock_claimed(tx: WriteSession, version_id: UUID, claim_id: UUID) -> DocumentVersion | None:
    """Lock a version. Return None if somebody else has claimed it since, or it has ended."""
    mine = DocumentVersion.id == version_id, DocumentVersion.claim_id == claim_id
    return (await tx.execute(select(DocumentVersion).where(*mine).with_for_update())).scalar_one_or_none()


async def is_claimed(tx: ReadSession, version_id: UUID, claim_id: UUID) -> bool:
    mine = DocumentVersion.id == version_id, DocumentVersion.claim_id == claim_id
    return (await tx.execute(select(DocumentVersion.id).where(*mine))).first() is not None


async def find_step(tx: ReadSession, version: DocumentVersion) -> DocumentStep:
    """Return the step that a version is at."""
    here = DocumentStep.version_id == version.id, DocumentStep.step == version.step
    return (await tx.execute(select(DocumentStep).where(*here))).scalar_one()


def advance(version: DocumentVersion, step: DocumentStep) -> None:
    """Complete a step, and go on with the next one at once."""
    step.end_time, step.reason, step.fraction = now(), None, 1.0
    version.claim_id = None
    version.step = _STEPS[min(_STEPS.index(version.step) + 1, len(_STEPS) - 1)]


def pause(version: DocumentVersion) -> None:
    """End this part of a step. The next part comes after all that is due already."""
    version.claim_id, version.due_time = None, now()


async def find_file(tx: ReadSession, version: DocumentVersion) -> tuple[str, int] | None:
    """Return the name and the size of a version's file, unless its document was deleted."""
    query = select(Document.name, Blob.size_bytes).join(Blob, Blob.id == version.blob_id)
    row = (await tx.execute(query.where(Document.id == version.document_id))).one_or_none()
    return (row.name, row.size_bytes) if row else None


async def find_user(tx: ReadSession, document_id: UUID) -> UUID | None:
    """Return who uploaded a document, unless it was deleted."""
    return (await tx.execute(select(Document.user_id).where(Document.id == document_id))).scalar_one_or_none()


async def find(tx: ReadSession, document_id: UUID, number: int) -> DocumentVersion | None:
    """Return a version of a document that has not ended."""
    here = DocumentVersion.document_id == document_id, DocumentVersion.number == number
    query = select(DocumentVersion).where(*here, DocumentVersion.state != State.ENDED)
    return (await tx.execute(query)).scalar_one_or_none()


async def find_bytes(tx: ReadSession, document_id: UUID, version_id: UUID | None) -> tuple[UUID, Blob] | None:
    """Return the id and the bytes of a version of a document that has not ended; None stands for the latest one."""
    query = (
        select(DocumentVersion.id, Blob)
        .join(Blob, Blob.id == DocumentVersion.blob_id)
        .join(Document, Document.id == DocumentVersion.document_id)
        .where(Document.id == document_id, DocumentVersion.id == (version_id or Document.latest_version_id))
    )
    row = (await tx.execute(query)).one_or_none()
    return (row[0], row[1]) if row else None


async def find_several(tx: ReadSession, ids: Collection[UUID]) -> dict[UUID, tuple[DocumentVersion, str]]:
    """Return versions with the names of their documents, by id."""
    query = (
        select(DocumentVersion, Document.name)
        .join(Document, Document.id == DocumentVersion.document_id)
        .where(DocumentVersion.id == any_of(ids))
    )
    return {version.id: (version, name) for version, name in await tx.execute(query)}


async def find_ready(tx: ReadSession, version_id: UUID) -> DocumentVersion | None:
    """Return a version that has not ended and is ready."""
    here = DocumentVersion.id == version_id, DocumentVersion.state == State.READY
    return (await tx.execute(select(DocumentVersion).where(*here))).scalar_one_or_none()


async def hold(tx: WriteSession, version_id: UUID) -> bool:
    """Keep a version from ending until the transaction ends. Return False if it has ended."""
    here = DocumentVersion.id == version_id, DocumentVersion.state != State.ENDED
    return (await tx.execute(select(DocumentVersion.id).where(*here).with_for_update())).first() is not None


async def is_readable(tx: ReadSession, workspace_id: UUID, document_id: UUID, version_id: UUID) -> bool:
    """Return whether a version of a document of the workspace has not ended."""
    here = DocumentVersion.id == version_id, DocumentVersion.document_id == document_id
    query = select(DocumentVersion.id).where(*here, DocumentVersion.workspace_id == workspace_id)
    return (await tx.execute(query.where(DocumentVersion.state != State.ENDED))).first() is not None


async def lock_of(tx: WriteSession, document_id: UUID) -> Sequence[tuple[DocumentVersion, Blob]]:
    """Lock the versions of a document that have not ended. Return them with their bytes."""
    query = (
        select(DocumentVersion, Blob)
        .join(Blob, Blob.id == DocumentVersion.blob_id)
        .where(DocumentVersion.document_id == document_id, DocumentVersion.state != State.ENDED)
        .with_for_update(of=DocumentVersion)
    )
    return [(version, blob) for version, blob in await tx.execute(query)]


def end(version: DocumentVersion, *, deleted: bool) -> None:
    """Make a version a tombstone. `deleted`: its document ends, too."""
    version.state, version.end_time = State.ENDED, now()
    version.deleted_document_id = version.document_id if deleted else None
    version.document_id = version.claim_id = version.blob_id = version.reason = None
    version.media_type, version.unread_pages = "", []


async def find_ended(tx: ReadSession, version_id: UUID) -> tuple[UUID, UUID | None] | None:
    """Return the workspace of a version that has ended, and its document if that was deleted."""
    query = select(DocumentVersion.workspace_id, DocumentVersion.deleted_document_id)
    ended = query.where(DocumentVersion.id == version_id, DocumentVersion.state == State.ENDED)
    row = (await tx.execute(ended)).one_or_none()
    return (row.workspace_id, row.deleted_document_id) if row else None


async def forget(tx: WriteSession, version_id: UUID) -> None:
    await tx.execute(delete(DocumentVersion).where(DocumentVersion.id == version_id))


async def list_ended_in(tx: ReadSession, workspace_id: UUID | None, limit: int) -> Sequence[UUID]:
    """Return ids of ended versions of a workspace, or of the whole organization."""
    query = select(DocumentVersion.id).where(DocumentVersion.state == State.ENDED).limit(limit)
    if workspace_id:
        query = query.where(DocumentVersion.workspace_id == workspace_id)
    return (await tx.execute(query)).scalars().all()


class Reindexed(NamedTuple):
    """Documents of a workspace that are to be read again, in the order of their ids."""

    workspace_id: UUID
    ids: Collection[UUID]  # all if there are none
    after: UUID | None = None  # the last document of the page before
    until: datetime | None = None  # when the latest version of any of them was made


async def list_to_reindex(tx: WriteSession, which: Reindexed, limit: int) -> Sequence[tuple[Document, UUID, str]]:
    """Lock and return documents with their bytes and media types. Not those in progress."""
    query = (
        select(Document, DocumentVersion.blob_id, DocumentVersion.media_type)
        .join(DocumentVersion, DocumentVersion.id == Document.latest_version_id)
        .where(*_to_reindex(which))
        .order_by(Document.id)
        .limit(limit)
        .with_for_update(of=Document)
    )
    rows = await tx.execute(query)
    return [(document, blob_id, media_type) for document, blob_id, media_type in rows if blob_id]


async def count_to_reindex(tx: ReadSession, which: Reindexed) -> tuple[int, datetime | None]:
    """Return the number of documents, and when the latest version of any of them was made."""
    query = select(func.count(), func.max(DocumentVersion.create_time))
    joined = query.join_from(Document, DocumentVersion, DocumentVersion.id == Document.latest_version_id)
    count, latest = (await tx.execute(joined.where(*_to_reindex(which)))).one()
    return count, latest


def _to_reindex(which: Reindexed) -> Iterator[ColumnElement[bool]]:
    yield Document.workspace_id == which.workspace_id
    yield DocumentVersion.state.not_in((State.PROCESSING, State.ENDED))
    if which.ids:
        yield Document.id == any_of(which.ids)
    if which.after:
        yield Document.id > which.after
    if which.until:
        yield DocumentVersion.create_time <= which.until
