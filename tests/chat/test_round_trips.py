"""What one message costs in round trips to the databases, without faults: each one is paid by every answer."""

from collections.abc import AsyncIterator

import pytest

from tests.standin import Script, Standin
from tests.support.commands import Watched, watched_server
from tests.support.people import Person, Place, make_place
from tests.support.runs import OPENAI, WORDS, kinds_of, play, say
from tests.support.statements import statements
from tests.support.stores import Stores

# A principal is read again after a second, and a workspace: whether that falls into the message is chance.
_AUTHORIZATION = ("find_principal", "find_workspace")


@pytest.fixture
async def watched(stores: Stores, standin: Standin) -> AsyncIterator[Watched]:
    async with watched_server(stores, standin, "one_message") as watched:
        yield watched


async def _answer(place: Place, model: str) -> None:
    assert kinds_of(await say(place.owner, place.conversation_id, "hello", model=model))[-1] == "run_completed"


async def test_a_message_takes_three_round_trips_to_postgresql_and_six_to_mongodb(
    watched: Watched, standin: Standin
) -> None:
    place = await make_place(await Person(watched.app.address).register())
    model = play(standin, OPENAI, Script(tokens=WORDS))
    await _answer(place, model)
    with statements(watched.app, calls_only=True) as sent:
        watched.commands.seen.clear()
        await _answer(place, model)
    by_calls = [text for text, _ in sent if not any(name in text for name in (*_AUTHORIZATION, "BEGIN"))]
    assert [text.split("(")[0].rpartition(" ")[2] for text in by_calls] == [
        "read_chat_context",
        "start_run",
        "end_runs",
    ]
    assert sorted(each for each in watched.commands.seen if each[1] in ("conversations", "runs", "run_events")) == [
        ("find", "conversations"),
        ("find", "runs"),
        ("insert", "runs"),
        ("update", "conversations"),
        ("update", "conversations"),
        ("update", "runs"),
    ]
