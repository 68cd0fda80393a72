"""Which commands to Redis need two slots of a cluster: none that writes, and one that reads."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace_server.app import running
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.runs.streams.redis import RedisEventBus
from aiworkspace_server.settings import Settings
from tests.standin import Script, Standin
from tests.support.people import Person, make_conversation, make_place, reconnected
from tests.support.redis_slots import RedisCommands
from tests.support.runs import events_of, first_deltas, follow, send_in
from tests.support.settings import openai_settings, store_settings
from tests.support.stores import Stores, other_databases

_MODEL = "openai/gpt-4o-mini"
_RUNS = 3
# A process waits for everything that it follows with one command. With a cluster it would be one for each server.
_CROSSING = {"XREAD"}


async def test_other_commands_and_transactions_are_in_one_slot_each(stores: Stores, standin: Standin) -> None:
    values = store_settings(await other_databases(stores, "slots")) | openai_settings(standin)
    settings = Settings.model_validate(values | {"redis_url": stores.redis})
    commands = RedisCommands()
    with commands.recording():
        async with running(settings, migrating=True) as one, running(settings, migrating=False) as other:
            owner = await Person(one.address).register()
            standin.script("gpt-4o-mini", *[Script(tokens=["word "] * 200, seconds_per_token=0.01)] * _RUNS)
            await _talk_and_follow(owner, reconnected(owner, other.address))
        await _take_over_and_erase(stores.redis)
    assert {"XADD", "XREAD", "XTRIM", "EVALSHA", "PUBLISH", "MULTI"} <= commands.names
    async with Redis.from_url(stores.redis) as redis:
        assert await commands.crossing(redis) == _CROSSING


async def _talk_and_follow(owner: Person, there: Person) -> None:
    """Several runs at the same time, each followed on another server, and one of them cancelled from there."""
    place = await make_place(owner, _MODEL)
    streams: list[Any] = []
    for _ in range(_RUNS):
        streams.append(send_in(owner, await make_conversation(owner, place.workspace_id, _MODEL)))
    run_ids = [(await first_deltas(stream, 2))[0].run_id for stream in streams]
    elsewhere = [asyncio.create_task(events_of(follow(there, run_id))) for run_id in run_ids]
    await there.chat.CancelRun(pb.CancelRunRequest(run_id=run_ids[0]))
    for task, stream in zip(elsewhere, streams, strict=True):
        assert (await task)[-1] == (await events_of(stream))[-1]


async def _take_over_and_erase(redis_url: str) -> None:
    bus, run_ids = RedisEventBus(redis_url), [new_id(), new_id()]
    async with bus.running(lambda run_ids: None):
        for run_id in run_ids:
            await bus.take_over(run_id)
        await bus.request_cancel(run_ids)
        await bus.erase(run_ids, run_ids)


@pytest.mark.parametrize(
    ("command", "transaction", "crosses"),
    [
        (("MGET", "{run}:1", "{run}:2"), False, False),
        (("MGET", "run:1", "run:2"), False, True),
        (("XREAD", "STREAMS", "run:1", "run:2", "0-0", "0-0"), False, True),
        (("EVAL", "return 1", 2, "run:1", "run:2", "run:3"), False, True),
        (("EVAL", "return 1", 1, "run:1", "run:2"), False, False),
        (("SET", "run:1", ""), True, True),
        (("SET", "{run:2}:1", ""), True, False),
        (("PING",), False, False),
    ],
    ids=str,
)
async def test_commands_in_two_slots_are_seen(
    command: tuple[Any, ...], transaction: bool, crosses: bool, stores: Stores
) -> None:
    commands = RedisCommands()
    async with Redis.from_url(stores.redis) as redis:
        with commands.recording():
            pipeline = redis.pipeline(transaction=transaction)
            if transaction:
                pipeline.set("run:2", "")
            pipeline.execute_command(*command)
            await pipeline.execute()
        assert bool(await commands.crossing(redis)) == crosses
