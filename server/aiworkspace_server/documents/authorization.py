"""Finds the workspace of a document, collection or upload for authorization."""

from uuid import UUID

from ..auth.authority import Scope, principal_of
from ..kit.context import Call
from ..kit.postgres import Database
from ..workspaces.service import WorkspaceFinder
from . import store


class DocumentFinder:
    """Everybody who sees a workspace finds its documents and collections. Only its owner finds an upload."""

    def __init__(self, db: Database, workspaces: WorkspaceFinder) -> None:
        self._db = db
        self._workspaces = workspaces

    async def find_document(self, call: Call, document_id: UUID) -> Scope | None:
        return await self._find_workspace(call, await store.find_document_place(self._db, document_id))

    async def find_collection(self, call: Call, collection_id: UUID) -> Scope | None:
        return await self._find_workspace(call, await store.find_collection_place(self._db, collection_id))

    async def find_upload(self, call: Call, upload_id: UUID) -> Scope | None:
        owner = principal_of(call).user_id
        return await self._find_workspace(call, await store.find_upload_place(self._db, upload_id, owner))

    async def _find_workspace(self, call: Call, workspace_id: UUID | None) -> Scope | None:
        return await self._workspaces.find(call, workspace_id) if workspace_id else None
