"""`jobs`: a process that works the queue, beside servers that do not."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiworkspace.v1 import document_pb2
from aiworkspace_server.app import running
from aiworkspace_server.settings import Settings
from tests.support.documents import read
from tests.support.mailbox import Mailbox
from tests.support.people import Person, make_place
from tests.support.postgres import sql
from tests.support.settings import environment, mail_settings, store_settings
from tests.support.stores import Stores, other_databases


@asynccontextmanager
async def jobs_process(settings: Settings, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aiworkspace_server", "jobs"),
        cwd=folder,
        env={**os.environ, **environment(settings)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    assert await process.stdout.readline() == b"aiworkspace working jobs\n"
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_jobs_wait_for_the_process_that_works_them(stores: Stores, mailbox: Mailbox, tmp_path: Path) -> None:
    own = await other_databases(stores, "jobs_alone")
    values = store_settings(own) | mail_settings(mailbox) | {"redis_url": stores.redis, "jobs_in_server": False}
    settings = Settings.model_validate(values)
    async with running(settings, migrating=True) as app:
        person = await Person(app.address).register()
        place = await make_place(person)
        waiting = await sql(own, "SELECT task_name FROM procrastinate_jobs WHERE status = 'todo'")
        assert ("accounts.send_token",) in waiting
        assert not mailbox.of(person.email)
        async with jobs_process(settings, tmp_path) as process:
            assert await mailbox.wait(person.email)
            document = await read(person, place.workspace_id, b"The engine is cranked on Tuesdays.", name="notes.txt")
            assert document.state == document_pb2.DOCUMENT_STATE_READY
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
