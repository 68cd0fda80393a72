"""Puts retention, legal holds, exports and erasures together."""

from ..auth.jobs import Notices
from ..chat.erasure import ChatEraser
from ..documents.content import Files
from ..documents.erasure import DocumentEraser
from ..erasure.jobs import ErasureJobs
from ..kit.mongo import Mongo
from ..kit.platform import Platform
from .exports.exporter import Exporter
from .exports.jobs import ExportJobs
from .retention import RetentionJob
from .servicer import DataServicer


def build(
    platform: Platform,
    mongo: Mongo,
    files: Files,
    chats: ChatEraser,
    documents: DocumentEraser,
    erasure: ErasureJobs,
    notices: Notices,
) -> DataServicer:
    db, jobs = platform.db, platform.jobs
    RetentionJob(db, mongo, chats, documents).register(jobs)
    ExportJobs(db, files, Exporter(db, mongo, files)).register(jobs)
    return DataServicer(db, files, jobs, erasure, notices, platform.pages, platform.idempotency)
