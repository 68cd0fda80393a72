"""Puts events together."""

from dataclasses import dataclass

from ..kit.platform import Platform
from .feed import Feed
from .jobs import Retention
from .servicer import EventServicer


@dataclass(frozen=True, slots=True)
class Events:
    servicer: EventServicer
    feed: Feed  # to be closed


def build(platform: Platform) -> Events:
    Retention(platform.db).register(platform.jobs)
    feed = Feed(platform.db)
    return Events(EventServicer(platform.db, feed, platform.pages), feed)
