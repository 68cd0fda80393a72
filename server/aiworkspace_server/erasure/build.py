"""Puts erasure together."""

from ..chat.erasure import ChatEraser
from ..kit.platform import Platform
from .jobs import Erasure


def build(platform: Platform, chats: ChatEraser) -> Erasure:
    erasure = Erasure(platform.db, platform.jobs, chats)
    erasure.register(platform.jobs)
    return erasure
