"""A server of its own whose commands to MongoDB are noted."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from pymongo import AsyncMongoClient, monitoring

from aiworkspace_server.app import App, running
from aiworkspace_server.kit import mongo
from aiworkspace_server.kit.context import current
from aiworkspace_server.settings import Settings
from tests.standin import Standin
from tests.support.settings import provider_settings, store_settings
from tests.support.stores import Stores, other_databases


@dataclass
class Commands(monitoring.CommandListener):
    """The commands that calls make the server send: name and collection."""

    seen: list[tuple[str, str]] = field(default_factory=list)

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        command: Mapping[str, Any] = event.command
        if current.get(None) is not None:
            collection = command.get("collection", command[event.command_name])
            self.seen.append((event.command_name, str(collection)))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Noted when it started."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Noted when it started."""


@dataclass(frozen=True)
class Watched:
    app: App
    commands: Commands
    stores: Stores


@asynccontextmanager
async def watched_server(stores: Stores, standin: Standin, name: str) -> AsyncIterator[Watched]:
    """`name` is that of its databases."""
    commands = Commands()
    own = await other_databases(stores, name)
    settings = store_settings(own) | provider_settings(standin)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mongo, "AsyncMongoClient", partial(AsyncMongoClient, event_listeners=[commands]))
        async with running(Settings.model_validate(settings), migrating=True) as app:
            yield Watched(app, commands, own)
