"""Single statements on few connections: what waits, what is cancelled, and what is lost."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from psycopg import AsyncConnection, OperationalError
from psycopg.errors import DivisionByZero

from aiworkspace_server.kit.direct import Direct
from tests.support.postgres import sql
from tests.support.stores import Stores

WHO = "SELECT pg_backend_pid()"
SLEEP = "SELECT pg_sleep(%s)"
DIVIDE = "SELECT 1 / %s::int"


def make(stores: Stores, seconds: float = 10) -> Direct:
    """With two connections."""
    return Direct(lambda: AsyncConnection.connect(stores.libpq, autocommit=True, prepare_threshold=0), 2, seconds)


@pytest.fixture
async def direct(stores: Stores) -> AsyncIterator[Direct]:
    direct = make(stores)
    yield direct
    await direct.close()


async def who(direct: Direct) -> int:
    ((pid,),) = await direct.fetch(WHO, ())
    return int(pid)


async def test_statements_share_the_connections_that_there_are(direct: Direct) -> None:
    one_by_one = {await who(direct) for _ in range(5)}
    at_once = set(await asyncio.gather(*(who(direct) for _ in range(20))))
    assert len(one_by_one) == 1
    assert one_by_one < at_once
    assert len(at_once) == 2


async def test_values_are_those_of_each_call(direct: Direct) -> None:
    assert [await direct.fetch(DIVIDE, (value,)) for value in (1, 2)] == [[(1,)], [(0,)]]


async def test_a_statement_that_fails_leaves_its_connection_in_use(direct: Direct) -> None:
    before = await who(direct)
    with pytest.raises(DivisionByZero):
        await direct.fetch(DIVIDE, (0,))
    assert await direct.fetch(DIVIDE, (1,)) == [(1,)]
    assert await who(direct) == before


async def test_statements_that_are_cancelled_take_no_connection_away(direct: Direct) -> None:
    for _ in range(3):
        sleeping = asyncio.create_task(direct.fetch(SLEEP, (60,)))
        await asyncio.sleep(0.1)
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
    async with asyncio.timeout(60):
        assert len(set(await asyncio.gather(*(who(direct) for _ in range(20))))) == 2


async def test_connections_that_were_lost_fail_one_statement_alone(direct: Direct, stores: Stores) -> None:
    lost = set(await asyncio.gather(who(direct), who(direct)))
    assert len(lost) == 2
    for pid in lost:
        await sql(stores, "SELECT pg_terminate_backend(%s, 5000)", pid)
    with pytest.raises(OperationalError):
        await who(direct)
    assert lost.isdisjoint(await asyncio.gather(who(direct), who(direct)))


async def test_a_statement_for_which_no_connection_becomes_free_is_given_up(stores: Stores) -> None:
    direct = make(stores, seconds=0.2)
    sleeping = [asyncio.create_task(direct.fetch(SLEEP, (2,))) for _ in range(2)]
    await asyncio.sleep(0.1)
    with pytest.raises(OperationalError, match=r"no connection became free within 0.2 s"):
        await who(direct)
    assert [len(rows) for rows in await asyncio.gather(*sleeping)] == [1, 1]
    assert await who(direct)
    await direct.close()


async def test_nothing_is_opened_again_after_the_end(stores: Stores) -> None:
    direct = make(stores)
    late = asyncio.create_task(direct.fetch(SLEEP, (0.3,)))
    await asyncio.sleep(0.1)
    await direct.close()
    assert len(await late) == 1, "what was going on ends"
    with pytest.raises(OperationalError, match="closed"):
        await who(direct)
