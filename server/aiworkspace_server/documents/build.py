"""Puts DocumentService together."""

from dataclasses import dataclass

from ..access.authorize import FindScope
from ..kit.platform import Platform
from ..kit.postgres import Database
from ..workspaces.service import WorkspaceFinder
from .authorization import DocumentFinder
from .content import Files
from .erasure import DocumentEraser
from .jobs import DocumentJobs
from .lost_writes import LostWrites
from .service import DocumentService
from .servicer import DocumentServicer
from .store import Quota


@dataclass(frozen=True, slots=True)
class Documents:
    servicer: DocumentServicer
    eraser: DocumentEraser


def build(platform: Platform, files: Files) -> Documents:
    settings, db = platform.settings, platform.db
    quota = Quota(settings.org_document_bytes, settings.org_document_count)
    service = DocumentService(db, files, platform.jobs, quota, settings.document_bytes)
    DocumentJobs(db, service).register(platform.jobs)
    LostWrites(db, files).register(platform.jobs)
    servicer = DocumentServicer(service, db, files, platform.tasks, platform.pages, platform.idempotency)
    return Documents(servicer, DocumentEraser(db, files, service))


def finders(db: Database, workspaces: WorkspaceFinder) -> dict[str, FindScope]:
    """Return what finds the scope of a document, collection or upload, by the name of the request field."""
    finder = DocumentFinder(db, workspaces)
    return {
        "document_id": finder.find_document,
        "collection_id": finder.find_collection,
        "upload_id": finder.find_upload,
    }
