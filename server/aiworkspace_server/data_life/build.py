"""Puts retention, legal holds and erasures together."""

from ..auth.jobs import Notices
from ..chat.erasure import ChatEraser
from ..documents.erasure import DocumentEraser
from ..erasure.jobs import ErasureJobs
from ..kit.mongo import Mongo
from ..kit.platform import Platform
from .retention import RetentionJob
from .servicer import DataServicer


def build(
    platform: Platform,
    mongo: Mongo,
    chats: ChatEraser,
    documents: DocumentEraser,
    erasure: ErasureJobs,
    notices: Notices,
) -> DataServicer:
    RetentionJob(platform.db, mongo, chats, documents).register(platform.jobs)
    return DataServicer(platform.db, erasure, notices, platform.pages)
