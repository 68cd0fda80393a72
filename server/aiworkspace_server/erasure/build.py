"""Puts erasure together."""

from ..chat.erasure import ChatEraser
from ..documents.erasure import DocumentEraser
from ..kit.platform import Platform
from .jobs import Erasure


def build(platform: Platform, chats: ChatEraser, documents: DocumentEraser) -> Erasure:
    erasure = Erasure(platform.db, platform.jobs, chats, documents)
    erasure.register(platform.jobs)
    return erasure
