"""Queries on documents, collections and uploads. The session sets the tenant, or the function that is called."""

from collections.abc import Collection as Several
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import delete, exists, func, select, text, update
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.orm import aliased

from ..kit.postgres import Database, ReadSession, WriteSession, any_of
from ..kit.timestamps import now
from ..workspaces.models import Workspace
from .models import (
    Blob,
    Collection,
    CollectionDocument,
    Document,
    DocumentStep,
    DocumentUsage,
    DocumentVersion,
    Upload,
)

_FIND_DOCUMENT = "SELECT org_id, workspace_id FROM find_document(%s)"
_FIND_COLLECTION = "SELECT org_id, workspace_id FROM find_collection(%s)"
_FIND_UPLOAD = "SELECT org_id, workspace_id FROM find_upload(%s, %s)"
_LIST_EXPIRED_UPLOADS = text("SELECT org_id, id FROM list_expired_uploads(:before, :limit)")
_LIST_ENDED_UPLOADS = text("SELECT org_id, id FROM list_ended_uploads(:before, :limit)")
_LIST_UPLOAD_ORGS = text("SELECT org_id FROM list_upload_orgs(:user_id) AS orgs(org_id)")


class Quota(NamedTuple):
    """The most that an organization may keep."""

    size_bytes: int
    document_count: int


class FoundDocument(NamedTuple):
    """A document with its latest version, that version's bytes and steps, and the ids of its collections."""

    document: Document
    version: DocumentVersion
    blob: Blob
    ready_number: int | None  # of the version that answers searches
    steps: Sequence[DocumentStep]
    collection_ids: Sequence[UUID]


# Before the tenant is known


async def find_document_place(db: Database, document_id: UUID) -> UUID | None:
    """Return the workspace of a document of any organization."""
    rows = await db.fetch(_FIND_DOCUMENT, (document_id,))
    return rows[0][1] if rows else None


async def find_collection_place(db: Database, collection_id: UUID) -> UUID | None:
    """Return the workspace of a collection of any organization."""
    rows = await db.fetch(_FIND_COLLECTION, (collection_id,))
    return rows[0][1] if rows else None


async def find_upload_place(db: Database, upload_id: UUID, user_id: UUID) -> UUID | None:
    """Return the workspace of a person's upload in any organization."""
    rows = await db.fetch(_FIND_UPLOAD, (upload_id, user_id))
    return rows[0][1] if rows else None


async def list_expired_uploads(tx: ReadSession, before: datetime, limit: int) -> Sequence[tuple[UUID, UUID]]:
    """Return organization and id of uploads that expired before a time and were not given up."""
    rows = await tx.execute(_LIST_EXPIRED_UPLOADS, {"before": before, "limit": limit})
    return [(row.org_id, row.id) for row in rows]


async def list_ended_uploads(tx: ReadSession, before: datetime, limit: int) -> Sequence[tuple[UUID, UUID]]:
    """Return organization and id of uploads that were given up before a time."""
    rows = await tx.execute(_LIST_ENDED_UPLOADS, {"before": before, "limit": limit})
    return [(row.org_id, row.id) for row in rows]


async def list_upload_orgs(tx: ReadSession, user_id: UUID) -> Sequence[UUID]:
    """Return the organizations in which a person has uploads."""
    return (await tx.execute(_LIST_UPLOAD_ORGS, {"user_id": user_id})).scalars().all()


# Workspaces


async def hold_workspace(tx: WriteSession, workspace_id: UUID) -> bool:
    """Keep a workspace from being deleted until the transaction ends. Return False if it is deleted."""
    there = Workspace.id == workspace_id, Workspace.delete_time.is_(None)
    return (await tx.execute(select(Workspace.id).where(*there).with_for_update(read=True))).first() is not None


# Room


async def reserve(tx: WriteSession, org_id: UUID, size_bytes: int, document_count: int, quota: Quota) -> bool:
    """Take room for a version, and for its document if `document_count` is 1. Return False if there is not enough."""
    first = insert(DocumentUsage).values(org_id=org_id, size_bytes=0, document_count=0).on_conflict_do_nothing()
    await tx.execute(first)
    fits = (
        DocumentUsage.size_bytes + size_bytes <= quota.size_bytes,
        DocumentUsage.document_count + document_count <= quota.document_count,
    )
    more = {
        "size_bytes": DocumentUsage.size_bytes + size_bytes,
        "document_count": DocumentUsage.document_count + document_count,
    }
    taken = await tx.execute(update(DocumentUsage).where(*fits).values(more).returning(DocumentUsage.org_id))
    return taken.first() is not None


async def release(tx: WriteSession, size_bytes: int, document_count: int) -> None:
    """Release room of versions and documents."""
    less = {
        "size_bytes": DocumentUsage.size_bytes - size_bytes,
        "document_count": DocumentUsage.document_count - document_count,
    }
    await tx.execute(update(DocumentUsage).values(less))


async def forget_usage(tx: WriteSession) -> None:
    await tx.execute(delete(DocumentUsage))


async def used(tx: ReadSession) -> Quota:
    row = (await tx.execute(select(DocumentUsage.size_bytes, DocumentUsage.document_count))).first()
    return Quota(*row) if row else Quota(0, 0)


# Uploads


async def find_upload(tx: ReadSession, upload_id: UUID) -> Upload | None:
    """Return an upload that was not given up."""
    query = select(Upload).where(Upload.id == upload_id, Upload.end_time.is_(None))
    return (await tx.execute(query)).scalar_one_or_none()


async def lock_upload(tx: WriteSession, upload_id: UUID) -> Upload | None:
    """Lock an upload, also one that was given up."""
    return (await tx.execute(select(Upload).where(Upload.id == upload_id).with_for_update())).scalar_one_or_none()


async def take_over(tx: WriteSession, upload_id: UUID, stream_id: UUID) -> Upload | None:
    """Make a stream the one that writes. Return the upload, unless it was given up."""
    here = Upload.id == upload_id, Upload.end_time.is_(None)
    changed = await tx.execute(update(Upload).where(*here).values(stream_id=stream_id).returning(Upload))
    return changed.scalar_one_or_none()


async def give_up(tx: WriteSession, upload: Upload) -> None:
    """Mark a locked upload as given up, and release its room."""
    upload.end_time = now()
    upload.name = ""
    await release_upload(tx, upload)


async def release_upload(tx: WriteSession, upload: Upload) -> None:
    await release(tx, upload.size_bytes, 0 if upload.replaces_id else 1)


async def list_uploads(
    tx: ReadSession, *, workspace_id: UUID | None = None, user_id: UUID | None = None, limit: int
) -> Sequence[UUID]:
    query = select(Upload.id).limit(limit)
    if workspace_id:
        query = query.where(Upload.workspace_id == workspace_id)
    if user_id:
        query = query.where(Upload.user_id == user_id)
    return (await tx.execute(query)).scalars().all()


# Bytes


async def keep_blob(tx: WriteSession, org_id: UUID, blob_id: UUID, sha256: bytes, size_bytes: int) -> UUID:
    """Return the id of the organization's blob with this content, which is the given one if there was none.

    It stays until the transaction ends, even if its last document is deleted meanwhile.
    """
    values = {"org_id": org_id, "id": blob_id, "sha256": sha256, "size_bytes": size_bytes, "create_time": now()}
    make = insert(Blob).values(values).on_conflict_do_nothing().returning(Blob.id)
    find = select(Blob.id).where(Blob.sha256 == sha256).with_for_update(read=True)
    while True:
        found = (await tx.execute(make)).scalar_one_or_none() or (await tx.execute(find)).scalar_one_or_none()
        if found:  # else it was deleted between the two statements
            return found


async def drop_blob(tx: WriteSession, blob_id: UUID) -> bool:
    """Delete a blob unless a version has it. Return whether it was deleted."""
    # A separate statement takes the lock. The next one then sees what the previous holder of the lock committed.
    await tx.execute(select(Blob.id).where(Blob.id == blob_id).with_for_update())
    unused = ~exists().where(DocumentVersion.blob_id == blob_id)
    dropped = await tx.execute(delete(Blob).where(Blob.id == blob_id, unused).returning(Blob.id))
    return dropped.first() is not None


async def has_file(tx: ReadSession, file_id: UUID) -> bool:
    """Return whether a blob has the file, or an upload that was not given up."""
    upload = exists().where(Upload.id == file_id, Upload.end_time.is_(None))
    query = select(exists().where(Blob.id == file_id) | upload)
    return bool((await tx.execute(query)).scalar_one())


# Documents


async def find_document(tx: ReadSession, document_id: UUID) -> FoundDocument | None:
    found = await _with_collections(tx, [document_id])
    return found[0] if found else None


async def lock_document(tx: WriteSession, document_id: UUID) -> Document | None:
    query = select(Document).where(Document.id == document_id).with_for_update()
    return (await tx.execute(query)).scalar_one_or_none()


async def list_documents(
    tx: ReadSession, workspace_id: UUID, collection_id: UUID | None, before: UUID | None, limit: int
) -> Sequence[FoundDocument]:
    """Return documents of a workspace, or of one of its collections, the latest first."""
    query = select(Document.id).where(Document.workspace_id == workspace_id)
    if collection_id:
        inside = CollectionDocument.document_id == Document.id, CollectionDocument.collection_id == collection_id
        query = query.where(exists().where(*inside))
    if before:
        query = query.where(Document.id < before)
    ids = (await tx.execute(query.order_by(Document.id.desc()).limit(limit))).scalars().all()
    return await _with_collections(tx, ids)


async def _with_collections(tx: ReadSession, ids: Sequence[UUID]) -> list[FoundDocument]:
    """Return the documents, the latest first."""
    of_document = CollectionDocument.document_id == Document.id
    ordered = aggregate_order_by(CollectionDocument.collection_id, CollectionDocument.collection_id)
    inside = select(func.array_agg(ordered)).where(of_document).scalar_subquery()
    latest, ready = aliased(DocumentVersion), aliased(DocumentVersion)
    query = (
        select(Document, latest, Blob, ready.number, inside)
        .join(latest, latest.id == Document.latest_version_id)
        .join(Blob, Blob.id == latest.blob_id)
        .outerjoin(ready, ready.id == Document.ready_version_id)
        .where(Document.id == any_of(ids))
        .order_by(Document.id.desc())
    )
    rows = (await tx.execute(query)).all()
    steps = await _list_steps(tx, [version.id for _, version, *_ in rows])
    return [
        FoundDocument(document, version, blob, number, steps[version.id], within or ())
        for document, version, blob, number, within in rows
    ]


async def _list_steps(tx: ReadSession, version_ids: Sequence[UUID]) -> dict[UUID, list[DocumentStep]]:
    found = dict[UUID, list[DocumentStep]]((each, []) for each in version_ids)
    for step in (
        await tx.execute(select(DocumentStep).where(DocumentStep.version_id == any_of(version_ids)))
    ).scalars():
        found[step.version_id].append(step)
    return found


async def some_documents(tx: ReadSession, workspace_id: UUID | None, limit: int) -> Sequence[UUID]:
    """Return ids of documents of a workspace, or of the whole organization."""
    query = select(Document.id).limit(limit)
    if workspace_id:
        query = query.where(Document.workspace_id == workspace_id)
    return (await tx.execute(query)).scalars().all()


async def put_into(tx: WriteSession, org_id: UUID, document_id: UUID, collection_ids: Several[UUID]) -> None:
    """Put a document into these collections and take it out of all others."""
    mine = CollectionDocument.document_id == document_id
    await tx.execute(
        delete(CollectionDocument).where(mine, ~(CollectionDocument.collection_id == any_of(collection_ids)))
    )
    rows = [{"org_id": org_id, "collection_id": each, "document_id": document_id} for each in collection_ids]
    if rows:
        await tx.execute(insert(CollectionDocument).values(rows).on_conflict_do_nothing())


# Collections


async def find_collection(tx: ReadSession, collection_id: UUID) -> Collection | None:
    return (await tx.execute(select(Collection).where(Collection.id == collection_id))).scalar_one_or_none()


async def lock_collection(tx: WriteSession, collection_id: UUID) -> Collection | None:
    query = select(Collection).where(Collection.id == collection_id).with_for_update()
    return (await tx.execute(query)).scalar_one_or_none()


async def hold_collections(tx: WriteSession, workspace_id: UUID, ids: Several[UUID]) -> set[UUID]:
    """Keep collections from being deleted until the transaction ends. Return those that are in the workspace."""
    if not ids:
        return set()
    here = Collection.id == any_of(ids), Collection.workspace_id == workspace_id
    return set(
        (await tx.execute(select(Collection.id).where(*here).with_for_update(key_share=True, read=True))).scalars()
    )


async def are_collections(tx: ReadSession, workspace_id: UUID, ids: Several[UUID]) -> bool:
    """Return whether all these collections are in the workspace."""
    here = Collection.id == any_of(ids), Collection.workspace_id == workspace_id
    return set((await tx.execute(select(Collection.id).where(*here))).scalars()) == set(ids)


async def list_collections(tx: ReadSession, workspace_id: UUID, after: UUID | None, limit: int) -> Sequence[Collection]:
    """Return collections of a workspace, oldest first."""
    query = select(Collection).where(Collection.workspace_id == workspace_id)
    if after:
        query = query.where(Collection.id > after)
    return (await tx.execute(query.order_by(Collection.id).limit(limit))).scalars().all()


async def delete_collections(tx: WriteSession, workspace_id: UUID | None, limit: int) -> int:
    """Delete collections of a workspace, or of the whole organization. Return their number."""
    query = select(Collection.id).limit(limit)
    if workspace_id:
        query = query.where(Collection.workspace_id == workspace_id)
    ids = (await tx.execute(query)).scalars().all()
    await tx.execute(delete(Collection).where(Collection.id == any_of(ids)))
    return len(ids)
