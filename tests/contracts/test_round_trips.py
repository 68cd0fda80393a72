"""What each method asks of the databases, against round_trips.json: a round trip that is added shows in a review.

`UPDATE_ROUND_TRIPS=1 make test ARGS=tests/contracts/test_round_trips.py` writes the file anew.
"""

import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from aiworkspace.v1 import options_pb2 as options
from tests.standin import Standin
from tests.support.belongings import Ids, furnish
from tests.support.commands import Watched, watched_server
from tests.support.operators import appoint
from tests.support.people import PASSWORD, Person, make_org, people
from tests.support.statements import statements
from tests.support.stores import Stores
from tests.support.surface import CLOSED, ENDPOINTS, Endpoint, calling_order, name_of

_GOLDEN = Path(__file__).with_name("round_trips.json")
# Who calls, and what they may do in a workspace, is remembered for a second: whether it is read again is chance.
# And so is whether a job with the same arguments waits already.
_CHANCE = ("find_principal", "find_workspace", "find_key", "ROLLBACK TO SAVEPOINT")
_CALLED = re.compile(r"\b(?:FROM|SELECT)\s+(\w+)\(")
_TABLE = re.compile(r"\b(?:FROM|INTO|UPDATE)\s+(\w+)")


@pytest.fixture
async def watched(stores: Stores, standin: Standin) -> AsyncIterator[Watched]:
    async with watched_server(stores, standin, "round_trips") as watched:
        yield watched


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
        operator = await appoint(watched.stores, new_person)
        theirs = {**belongings.ids, "org_id": await make_org(operator)}  # nothing else is suspended
        for endpoint in sorted(ENDPOINTS, key=calling_order):
            for optional in (True, False):  # some fields exclude each other
                for_operators = endpoint.access.mode == options.ACCESS_MODE_OPERATOR
                caller, ids = (operator, theirs) if for_operators else (belongings.owner, belongings.ids)
                outcome = await _measure(watched, endpoint, caller, ids, optional=optional)
                if outcome["code"] != "INVALID_ARGUMENT":
                    break
            seen[name_of(endpoint)] = outcome
    if os.environ.get("UPDATE_ROUND_TRIPS"):
        _GOLDEN.write_text(json.dumps(seen, indent=2, sort_keys=True) + "\n")
    assert seen == json.loads(_GOLDEN.read_text())


async def _measure(
    watched: Watched, endpoint: Endpoint, caller: Person, ids: Ids, *, optional: bool
) -> dict[str, str | list[str]]:
    request = endpoint.request(ids, optional=optional)
    if endpoint.descriptor.name == "ChangePassword":
        request.new_password = PASSWORD  # with which to log in again
    for _ in range(2):
        watched.commands.seen.clear()
        with statements(watched.app, calls_only=True) as sent:
            outcome = await endpoint.call(caller, request)
        if outcome.code != grpc.StatusCode.UNAUTHENTICATED or endpoint not in CLOSED:
            break
        await caller.log_in()  # the method before ended the session
    asked = [brief(statement) for statement, _ in sent if not any(name in statement for name in _CHANCE)]
    # Whether events were stored apart from their run depends on how long it took.
    commands = [" ".join(command) for command in watched.commands.seen if command[1] != "run_events"]
    return {"code": outcome.code.name, "postgresql": asked, "mongodb": sorted(commands)}
