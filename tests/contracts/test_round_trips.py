"""What each method asks of the databases, against round_trips.json: a round trip that is added shows in a review.

`UPDATE_ROUND_TRIPS=1 make test ARGS=tests/contracts/test_round_trips.py` writes the file anew.
"""

import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from pymongo import AsyncMongoClient, monitoring

from aiworkspace_server.app import App, running
from aiworkspace_server.kit import mongo
from aiworkspace_server.kit.context import current
from aiworkspace_server.settings import Settings
from tests.standin import Standin
from tests.support.belongings import Belongings, furnish
from tests.support.people import PASSWORD, people
from tests.support.settings import provider_settings, store_settings
from tests.support.statements import statements
from tests.support.stores import Stores, other_databases
from tests.support.surface import CLOSED, ENDPOINTS, Endpoint, name_of

_GOLDEN = Path(__file__).with_name("round_trips.json")
# Who calls, and what they may do in a workspace, is remembered for a second: whether it is read again is chance.
_REMEMBERED = ("find_principal", "find_workspace", "find_api_key")
_TAKES_AWAY = ("Remove", "Revoke", "Suspend", "Delete", "Logout")
_LAST = ("DeleteWorkspace", "DeleteOrg", "DeleteAccount")  # after which nothing is left to be taken away
_CALLED = re.compile(r"\b(?:FROM|SELECT)\s+(\w+)\(")
_TABLE = re.compile(r"\b(?:FROM|INTO|UPDATE)\s+(\w+)")


@dataclass
class Commands(monitoring.CommandListener):
    """The commands of calls to MongoDB: name and collection."""

    seen: list[str] = field(default_factory=list)

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        command: Mapping[str, Any] = event.command
        collection = command.get("collection", command[event.command_name])
        # Whether events were stored apart from their run depends on how long it took.
        if current.get(None) is not None and collection != "run_events":
            self.seen.append(f"{event.command_name} {collection}")

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Noted when it started."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Noted when it started."""


@dataclass(frozen=True)
class Watched:
    app: App
    commands: Commands


@pytest.fixture
async def watched(stores: Stores, standin: Standin, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    commands = Commands()
    monkeypatch.setattr(mongo, "AsyncMongoClient", partial(AsyncMongoClient, event_listeners=[commands]))
    settings = store_settings(await other_databases(stores, "round_trips")) | provider_settings(standin)
    async with running(Settings.model_validate(settings), migrating=True) as app:
        yield Watched(app, commands)


def brief(statement: str) -> str:
    """What a statement is about: a function, or what is done with a table."""
    if statement.startswith(("BEGIN", "SET", "SAVEPOINT", "RELEASE")):
        return statement.split()[0]
    if called := _CALLED.search(statement):
        return f"CALL {called[1]}"
    table = _TABLE.search(statement)
    return f"{statement.split()[0]} {table[1] if table else ''}".strip()


async def test_each_method_takes_the_round_trips_that_are_known(watched: Watched) -> None:
    seen = {}
    async with people(watched.app.address) as new_person:
        belongings = await furnish(new_person, "openai/gpt-4o-mini")
        for endpoint in sorted(ENDPOINTS, key=_order):
            for optional in (True, False):  # some fields exclude each other
                outcome = await _measure(watched, endpoint, belongings, optional=optional)
                if outcome["code"] != "INVALID_ARGUMENT":
                    break
            seen[name_of(endpoint)] = outcome
    if os.environ.get("UPDATE_ROUND_TRIPS"):
        _GOLDEN.write_text(json.dumps(seen, indent=2, sort_keys=True) + "\n")
    assert seen == json.loads(_GOLDEN.read_text())


def _order(endpoint: Endpoint) -> tuple[int, int]:
    """Those last that take something away."""
    name: str = endpoint.descriptor.name
    takes_away = next((place for place, verb in enumerate(_TAKES_AWAY, 1) if name.startswith(verb)), 0)
    return (_LAST.index(name) + 1 if name in _LAST else 0), takes_away


async def _measure(
    watched: Watched, endpoint: Endpoint, belongings: Belongings, *, optional: bool
) -> dict[str, str | list[str]]:
    request = endpoint.request(belongings.ids, optional=optional)
    if endpoint.descriptor.name == "ChangePassword":
        request.new_password = PASSWORD  # with which to log in again
    for _ in range(2):
        watched.commands.seen.clear()
        with statements(watched.app, calls_only=True) as sent:
            outcome = await endpoint.call(belongings.owner, request)
        if outcome.code != grpc.StatusCode.UNAUTHENTICATED or endpoint not in CLOSED:
            break
        await belongings.owner.log_in()  # the method before ended the session
    asked = [brief(statement) for statement, _ in sent if not any(name in statement for name in _REMEMBERED)]
    return {"code": outcome.code.name, "postgresql": asked, "mongodb": sorted(watched.commands.seen)}
