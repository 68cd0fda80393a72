"""What the server asks MongoDB, and whether one shard can answer it: by the filters of its commands."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from pymongo import AsyncMongoClient, monitoring

from aiworkspace_server.kit import mongo

# Where the filters or documents of a command are.
_PARTS: Mapping[str, Callable[[Mapping[str, Any]], Sequence[Mapping[str, Any]]]] = {
    "find": lambda command: [command["filter"]],
    "insert": lambda command: command["documents"],
    "update": lambda command: [each["q"] for each in command["updates"]],
    "delete": lambda command: [each["q"] for each in command["deletes"]],
    "findAndModify": lambda command: [command["query"]],
}
# About a cursor that another command has opened, or about no documents.
_OTHERS = {
    *("getMore", "killCursors", "hello", "ismaster", "ping", "endSessions", "buildInfo"),
    *("createIndexes", "dropIndexes", "listIndexes", "listCollections", "drop"),
}


def unrouted(name: str, command: Mapping[str, Any]) -> str | None:
    """What a command is about for which one shard is not enough; None if it is."""
    if name in _OTHERS:
        return None
    if name not in _PARTS:
        return f"{name} of {command[name]}"
    for part in _PARTS[name](command):
        if not isinstance(part.get("org_id"), UUID):
            several = "several organizations" if "$in" in (part.get("org_id") or {}) else "all organizations"
            return f"{name} in {command[name]} by {', '.join(sorted(part.keys() - {'org_id'}))} of {several}"
    return None


class MongoCommands(monitoring.CommandListener):
    """Every command that clients of this process send."""

    def __init__(self) -> None:
        self.count = 0
        self.unrouted: set[str] = set()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Note the commands of clients that are made while the context lasts."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mongo, "AsyncMongoClient", partial(AsyncMongoClient, event_listeners=[self]))
            yield

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command.get(event.command_name) != "migrations":
            self.count += 1
            if about := unrouted(event.command_name, event.command):
                self.unrouted.add(about)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Noted when it started."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Noted when it started."""
