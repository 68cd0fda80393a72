"""Puts erasure together."""

from ..chat.erasure import ChatEraser
from ..documents.erasure import DocumentEraser
from ..kit.mongo import Mongo
from ..kit.platform import Platform
from .jobs import ErasureJobs
from .receipts import Receipts


def build(platform: Platform, mongo: Mongo, chats: ChatEraser, documents: DocumentEraser) -> ErasureJobs:
    receipts = Receipts(platform.db, mongo)
    erasure = ErasureJobs(platform.db, platform.jobs, chats, documents, receipts)
    erasure.register(platform.jobs)
    return erasure
