"""The thread in which exports are packed ends with them, however they end."""

import os
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime

import pytest
from stream_zip import ZIP_64, AsyncMemberFile

from aiworkspace_server.data_life.exports.zipping import zip_members
from tests.support.waiting import until_true


async def endless() -> AsyncGenerator[bytes, None]:
    while True:
        yield os.urandom(1 << 16)


async def broken() -> AsyncGenerator[bytes, None]:
    yield os.urandom(1 << 16)
    raise RuntimeError("no more")


async def members(parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[AsyncMemberFile, None]:
    yield "name", datetime.now(UTC), 0o600, ZIP_64, parts


def packing() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("export")]


async def test_a_file_that_nobody_takes_any_more_leaves_no_thread() -> None:
    async with aclosing(zip_members(members(endless()))) as file:
        assert await anext(file)
        assert packing()
    await until_true(lambda: not packing())


async def test_the_error_of_a_source_ends_the_file() -> None:
    with pytest.raises(RuntimeError, match="no more"):
        async for _ in zip_members(members(broken())):
            pass
    await until_true(lambda: not packing())
