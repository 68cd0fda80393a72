"""What one message costs in round trips to the databases, without faults: each one is paid by every answer."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from pymongo import AsyncMongoClient, monitoring

from aiworkspace_server.app import App, running
from aiworkspace_server.kit import mongo
from aiworkspace_server.settings import Settings
from tests.standin import Script, Standin
from tests.support.people import Person, Place, make_place
from tests.support.runs import OPENAI, WORDS, kinds_of, play, say
from tests.support.settings import provider_settings, store_settings
from tests.support.statements import statements
from tests.support.stores import Stores, other_databases

# A principal is read again after a second, and a workspace: whether that falls into the message is chance.
_AUTHORIZATION = ("find_principal", "find_workspace")


@dataclass
class Commands(monitoring.CommandListener):
    """The commands that a server sends to MongoDB: name and collection."""

    seen: list[tuple[str, str]] = field(default_factory=list)

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        command: Mapping[str, Any] = event.command
        self.seen.append((event.command_name, str(command.get(event.command_name))))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Noted when it started."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Noted when it started."""


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
async def watched(
    stores: Stores, standin: Standin, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[App]:
    monkeypatch.setattr(mongo, "AsyncMongoClient", partial(AsyncMongoClient, event_listeners=[commands]))
    settings = store_settings(await other_databases(stores, "round_trips")) | provider_settings(standin)
    async with running(Settings.model_validate(settings), migrating=True) as app:
        yield app


async def _answer(place: Place, model: str) -> None:
    assert kinds_of(await say(place.owner, place.conversation_id, "hello", model=model))[-1] == "run_completed"


async def test_a_message_takes_three_round_trips_to_postgresql_and_six_to_mongodb(
    watched: App, standin: Standin, commands: Commands
) -> None:
    place = await make_place(await Person(watched.address).register())
    model = play(standin, OPENAI, Script(tokens=WORDS))
    await _answer(place, model)
    with statements(watched, calls_only=True) as sent:
        commands.seen.clear()
        await _answer(place, model)
    by_calls = [text for text, _ in sent if not any(name in text for name in (*_AUTHORIZATION, "BEGIN"))]
    assert [text.split("(")[0].rpartition(" ")[2] for text in by_calls] == [
        "read_message_context",
        "start_run",
        "end_run",
    ]
    assert sorted(each for each in commands.seen if each[1] in ("conversations", "runs", "run_events")) == [
        ("find", "conversations"),
        ("find", "runs"),
        ("insert", "runs"),
        ("update", "conversations"),
        ("update", "conversations"),
        ("update", "runs"),
    ]
