"""Erases documents, collections and uploads with everything that is stored of them."""

from collections.abc import Sequence
from uuid import UUID

from ..kit.mongo import Mongo
from ..kit.postgres import Database
from ..search import generations
from . import store, versions
from .content import Files
from .ending import Ending
from .service import DocumentService
from .texts import Texts

_BATCH = 100


class DocumentEraser:
    """Each method is one pass: it erases, and returns whether it found anything."""

    def __init__(self, db: Database, mongo: Mongo, files: Files, documents: DocumentService, ending: Ending) -> None:
        self._db = db
        self._mongo = mongo
        self._files = files
        self._documents = documents
        self._ending = ending

    async def erase_org(self, org_id: UUID) -> bool:
        found = await self._erase(org_id, None)
        async with self._db.write(org_id) as tx:
            await store.forget_usage(tx)
            await generations.forget_org(tx, org_id)
        found = await Texts(self._mongo, org_id).delete_all() or found
        return await self._files.of(org_id).delete_all() or found

    async def erase_workspace(self, org_id: UUID, workspace_id: UUID) -> bool:
        return await self._erase(org_id, workspace_id)

    async def erase_person(self, org_id: UUID, user_id: UUID) -> bool:
        """Erase what a person was uploading in one organization. Documents belong to their workspaces."""
        found = False
        while ids := await self._list_uploads(org_id, None, user_id):
            await self._erase_uploads(org_id, ids)
            found = True
        return found

    async def list_orgs_of(self, user_id: UUID) -> set[UUID]:
        async with self._db.read() as tx:
            return set(await store.list_upload_orgs(tx, user_id))

    async def _erase(self, org_id: UUID, workspace_id: UUID | None) -> bool:
        """Erase what is in a workspace, or in the whole organization."""
        found = False
        while ids := await self._list_uploads(org_id, workspace_id, None):
            await self._erase_uploads(org_id, ids)
            found = True
        while ids := await self._list_documents(org_id, workspace_id):
            for document_id in ids:
                await self._documents.delete_document(org_id, document_id, erasing=True)
            found = True
        while ids := await self._list_ended(org_id, workspace_id):
            for version_id in ids:
                await self._ending.forget(org_id, version_id, with_runs=True)
            found = True
        while await self._delete_collections(org_id, workspace_id):
            found = True
        return found

    async def _list_uploads(self, org_id: UUID, workspace_id: UUID | None, user_id: UUID | None) -> Sequence[UUID]:
        async with self._db.read(org_id) as tx:
            return await store.list_uploads(tx, workspace_id=workspace_id, user_id=user_id, limit=_BATCH)

    async def _erase_uploads(self, org_id: UUID, upload_ids: Sequence[UUID]) -> None:
        for upload_id in upload_ids:
            await self._documents.erase_upload(org_id, upload_id)

    async def _list_documents(self, org_id: UUID, workspace_id: UUID | None) -> Sequence[UUID]:
        async with self._db.read(org_id) as tx:
            return await store.some_documents(tx, workspace_id, _BATCH)

    async def _list_ended(self, org_id: UUID, workspace_id: UUID | None) -> Sequence[UUID]:
        async with self._db.read(org_id) as tx:
            return await versions.list_ended_in(tx, workspace_id, _BATCH)

    async def _delete_collections(self, org_id: UUID, workspace_id: UUID | None) -> int:
        async with self._db.write(org_id) as tx:
            return await store.delete_collections(tx, workspace_id, _BATCH)
