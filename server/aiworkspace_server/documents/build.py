"""Puts DocumentService together."""

from dataclasses import dataclass

from ..access.authorize import FindScope
from ..embedding.build import Embedding
from ..kit.egress import Egress
from ..kit.mongo import Mongo
from ..kit.platform import Platform
from ..kit.postgres import Database
from ..parsing.parser import Parser
from ..runs.citations.sources import DocumentAccess
from ..search.query import Search
from ..search.vector_index import VectorIndexes
from ..usage.ledger import Ledger
from ..workspaces.service import WorkspaceFinder
from .access import document_access
from .authorization import DocumentFinder
from .content import Files
from .ending import Ending
from .erasure import DocumentEraser
from .ingestion import Ingestion
from .jobs import UploadJobs, VersionJobs
from .lost_writes import HasFile, LostWrites
from .metering import Metering
from .reindexing import Reindexing
from .service import DocumentService
from .servicer import DocumentServicer
from .steps import Steps
from .store import Quota
from .upkeep import Upkeep
from .vectors import Vectors
from .web_pages import WebPages


@dataclass(frozen=True, slots=True)
class Documents:
    servicer: DocumentServicer
    eraser: DocumentEraser
    access: DocumentAccess  # of runs
    egress: Egress  # to be closed


def build(
    platform: Platform,
    mongo: Mongo,
    files: Files,
    embedding: Embedding,
    search: Search,
    ledger: Ledger,
    owner_url: str,
    has_file: HasFile,
) -> Documents:
    """`owner_url`: of PostgreSQL, with the login that may create indexes. `has_file`: of what is no document."""
    settings, db, jobs = platform.settings, platform.db, platform.jobs
    quota = Quota(settings.org_document_bytes, settings.org_document_count)
    metering = Metering(db, ledger)
    ending = Ending(db, mongo, files, jobs, metering)
    vectors = Vectors(db, embedding.embedder, metering) if embedding.embedder else None
    steps = Steps(mongo, files, Parser(), embedding.process, vectors, ending, settings.clamd_address)
    service = DocumentService(db, files, jobs, ending, quota, settings.document_bytes)
    UploadJobs(db, service).register(jobs)
    VersionJobs(db, ending, Ingestion(db, jobs, steps, platform.tasks)).register(jobs)
    LostWrites(db, files, has_file).register(jobs)
    Upkeep(db, jobs, vectors, VectorIndexes(owner_url)).register()
    reindexing = Reindexing(db, jobs, ending)
    reindexing.register()
    egress = Egress(settings.egress_allowed_networks or ())
    servicer = DocumentServicer(
        service,
        reindexing,
        search,
        db,
        mongo,
        files,
        WebPages(egress, settings.document_bytes),
        platform.tasks,
        platform.pages,
        platform.idempotency,
    )
    return Documents(servicer, DocumentEraser(db, mongo, files, service, ending), document_access(db, search), egress)


def finders(db: Database, workspaces: WorkspaceFinder) -> dict[str, FindScope]:
    """Return what finds the scope of a document, collection or upload, by the name of the request field."""
    finder = DocumentFinder(db, workspaces)
    return {
        "document_id": finder.find_document,
        "collection_id": finder.find_collection,
        "upload_id": finder.find_upload,
    }
