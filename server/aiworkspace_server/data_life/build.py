"""Puts retention and legal holds together."""

from ..chat.erasure import ChatEraser
from ..documents.erasure import DocumentEraser
from ..kit.mongo import Mongo
from ..kit.platform import Platform
from .retention import RetentionJob
from .servicer import DataServicer


def build(platform: Platform, mongo: Mongo, chats: ChatEraser, documents: DocumentEraser) -> DataServicer:
    RetentionJob(platform.db, mongo, chats, documents).register(platform.jobs)
    return DataServicer(platform.db)
