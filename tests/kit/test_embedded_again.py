"""Embedded databases that end by themselves: they are started again where a server runs them."""

import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from psycopg import OperationalError
from pymongo.errors import PyMongoError
from redis.exceptions import RedisError

from tests.support.embedded import leader_of, read, urls_of, write
from tests.support.store_processes import stores
from tests.support.waiting import until


async def test_a_database_that_ends_by_itself_is_started_again_with_what_it_was_told() -> None:
    with TemporaryDirectory(prefix="aiw-test-") as path:
        data_dir = Path(path) / "data"
        async with AsyncExitStack() as stack:
            all_stores = stores(data_dir, revived=True)
            for store in all_stores:
                stack.push_async_callback(store.close)
                await store.start()
            urls = urls_of(*(store.url for store in all_stores))
            await write(urls, "acknowledged")
            killed = [leader_of(data_dir, store.name) for store in all_stores]
            for leader in killed:
                os.kill(leader, signal.SIGKILL)

            async def back() -> bool:
                try:
                    return await read(urls) == [["acknowledged"]] * 3
                except (OperationalError, PyMongoError, RedisError):
                    return False

            await until(back)
            assert not set(killed) & {leader_of(data_dir, store.name) for store in all_stores}
