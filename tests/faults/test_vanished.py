"""Clients that go away: what they leave in the server and in the databases, which is nothing."""

import asyncio
from random import Random
from typing import Any
from uuid import UUID

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace_server.app import App
from tests.standin import Script, Standin
from tests.support import waiting
from tests.support.people import Person, Place, make_conversation
from tests.support.postgres import sql
from tests.support.stores import Stores

from .moments import until

MODEL = "openai/gpt-4o-mini"
CLIENTS = 20
HELD = """
  SELECT (SELECT count(*) FROM run_claims WHERE org_id = %s AND state = 'open'),
         (SELECT coalesce(sum(reserved_nanos), 0)::bigint FROM ledger_entries WHERE org_id = %s)
"""
IN_TRANSACTIONS = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"


async def test_a_client_that_goes_away_leaves_nothing_behind(
    place: Place, app: App, standin: Standin, stores: Stores
) -> None:
    standin.script("gpt-4o-mini", Script(tokens=("word ",) * 20, seconds_per_token=0.02))
    await until(lambda: app.engine.manager.idle)
    pool: Any = app.db.engine.pool
    tasks, connections, asked = _tasks(), pool.checkedout(), len(standin.received)
    chance = Random(1)
    async with asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            conversation_id = await make_conversation(place.owner, place.workspace_id, MODEL)
            clients.create_task(_vanish(place.owner, app.address, conversation_id, number % 5, chance.random() * 0.02))
    await until(lambda: app.engine.manager.idle)
    await until(lambda: all(received.done.is_set() for received in standin.received[asked:]))
    await until(lambda: pool.checkedout() <= connections)
    await until(lambda: _tasks() <= tasks)
    org_id = UUID(place.org_id)
    assert await sql(stores, HELD, org_id, org_id) == [(0, 0)]
    await waiting.until(lambda: _nobody_idles(stores))  # what the server does again and again is in one for a moment


async def _nobody_idles(stores: Stores) -> bool:
    return await sql(stores, IN_TRANSACTIONS) == [(0,)]


async def _vanish(owner: Person, address: str, conversation_id: str, after: int, seconds: float) -> None:
    """Asks over a connection of its own, takes so many events, and is gone a moment later, with the connection."""
    person = Person(address)
    person.bearer.token = owner.bearer.token
    stream = person.chat.SendMessage(pb.SendMessageRequest(conversation_id=conversation_id, content="hello"))
    for _ in range(after):
        await stream.read()
    await asyncio.sleep(seconds)
    await person.channel.close()


def _tasks() -> int:
    """Those of this process that wait for something: the server is in it."""
    return len(asyncio.all_tasks())
