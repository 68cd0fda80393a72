"""An upgrade under load: the release before, both together, the new one. Users of the SDK notice nothing.

`previous` names the commit of the release before.
"""

import asyncio
import io
import os
import signal
import subprocess
import tarfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aiworkspace.v1 import chat_pb2, org_pb2
from aiworkspace_client import AsyncClient
from tests.support.balancer import balancer
from tests.support.people import PASSWORD
from tests.support.postgres import sql
from tests.support.programs import missing
from tests.support.server_process import ServerProcess
from tests.support.service_accounts import OF_ADMINS
from tests.support.settings import store_settings
from tests.support.stores import Stores, empty_databases
from tests.support.waiting import until_true

ROOT = Path(__file__).parents[2]
PREVIOUS = (ROOT / "tests" / "upgrade" / "previous").read_text().strip()
TREES = "server", "client", "gen", "migrations"
SINCE = {"event.read", "webhook.manage"}  # permissions that the release before does not know
USERS, MORE = 4, 3  # how many work at a time, and how often each has to come round in every state


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the release before."""
    directory = tmp_path_factory.mktemp("previous")
    ran = subprocess.run(["git", "-C", str(ROOT), "archive", PREVIOUS, *TREES], capture_output=True, check=False)
    if ran.returncode:
        missing(f"git has no commit {PREVIOUS}: {ran.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(ran.stdout)) as files:
        files.extractall(directory, filter="data")
    return directory


@dataclass
class Acknowledged:
    """What servers said that they have done."""

    workspaces: dict[str, str] = field(default_factory=dict)  # names by id
    answers: dict[str, str] = field(default_factory=dict)  # texts by conversation
    rounds: list[int] = field(default_factory=lambda: [0] * USERS)
    failures: list[BaseException] = field(default_factory=list)

    async def more(self) -> None:
        """Wait until everybody has come round some more times, or somebody was told of an error."""
        wanted = [count + MORE for count in self.rounds]

        def come() -> bool:
            return bool(self.failures) or all(a >= b for a, b in zip(self.rounds, wanted, strict=True))

        await until_true(come)


@dataclass
class Load:
    """Users of the SDK. Each round has a connection of its own."""

    address: str
    org_id: str
    token: str  # an API key
    done: Acknowledged
    users: list[asyncio.Task[None]] = field(default_factory=list)
    ended: bool = False

    def begin(self) -> None:
        self.users = [asyncio.create_task(self.user(number)) for number in range(USERS)]

    async def end(self) -> None:
        """Let everybody end their round."""
        self.ended = True
        await asyncio.gather(*self.users)

    async def user(self, number: int) -> None:
        while not self.ended:
            try:
                async with AsyncClient(self.address, api_key=self.token) as client:
                    await self._round(client, number)
                self.done.rounds[number] += 1
            except Exception as error:
                self.done.failures.append(error)
                return

    async def _round(self, client: AsyncClient, number: int) -> None:
        name = f"{number} {uuid.uuid4()}"
        workspace = await client.workspaces.create(org_id=self.org_id, name=name, default_model="echo/echo")
        self.done.workspaces[workspace.workspace_id] = name
        conversation = await client.chat.create_conversation(workspace.workspace_id)
        said = "word " * (200 if number % 2 else 20)
        async with client.chat.send(conversation.conversation_id, said) as stream:
            text = "".join([piece async for piece in stream.text])
        self.done.answers[conversation.conversation_id] = text
        assert [each async for each in client.workspaces.list(self.org_id)]


@asynccontextmanager
async def loaded(address: str) -> AsyncIterator[Load]:
    async with AsyncClient(address) as client:
        await client.auth.register(email=f"{uuid.uuid4().hex}@example.com", password=PASSWORD, display_name="Ada")
        org = await client.orgs.create(name="Engines")
        robot = await client.service_accounts.create(org_id=org.org_id, name="Robot", role=org_pb2.ROLE_ADMIN)
        made = await client.service_accounts.create_api_key(
            org_id=org.org_id, user_id=robot.user_id, name="key", permissions=sorted({*OF_ADMINS} - SINCE)
        )
    load = Load(address, org.org_id, made.secret, Acknowledged())
    load.begin()
    try:
        yield load
    finally:
        await load.end()


def _head(directory: Path) -> str:
    """The newest revision among the migrations of a release."""
    names = [path.name for path in (directory / "migrations" / "versions").glob("[0-9]*.py")]
    return max(names).partition("_")[0]


async def _revision(stores: Stores) -> str:
    ((revision,),) = await sql(stores, "SELECT version_num FROM alembic_version")
    return str(revision)


async def test_an_upgrade_under_load_is_noticed_by_nobody(stores: Stores, previous: Path, tmp_path: Path) -> None:
    where = await empty_databases(stores, "upgraded_under_load")
    values = store_settings(where) | {"redis_url": where.redis, "echo_tokens_per_second": 200}
    values |= {"drain_seconds": 10, "shutdown_seconds": 60}
    path = os.pathsep.join(str(previous / tree) for tree in ("server", "client", "gen"))
    old = ServerProcess(tmp_path / "old", values | {"pythonpath": path}, "--migrate")
    new = ServerProcess(tmp_path, values)
    async with old, balancer(old.address) as between:
        assert await _revision(where) == _head(previous)
        async with loaded(between.address) as load:
            await load.done.more()
            await new.command("migrate")
            await load.done.more()
            async with new:
                between.targets = [old.address, new.address]
                await load.done.more()
                between.targets = [new.address]
                assert await old.end(signal.SIGTERM) == 0
                await load.done.more()
                await load.end()
                await _check(load, where)
    assert await _revision(where) == _head(ROOT)


async def _check(load: Load, where: Stores) -> None:
    """Everything that was acknowledged is there, and was paid for once."""
    assert load.done.failures == []
    async with AsyncClient(load.address, api_key=load.token) as client:
        names = {each.workspace_id: each.name async for each in client.workspaces.list(load.org_id)}
        assert load.done.workspaces.items() <= names.items()
        for conversation_id, text in load.done.answers.items():
            question, answer = [each async for each in client.chat.list_messages(conversation_id)]
            assert "".join(content.text for content in answer.contents) == text != ""
            assert question.state == answer.state == chat_pb2.MESSAGE_STATE_COMPLETE
    query = "SELECT conversation_id::text, count(*) FROM ledger_entries WHERE kind = 'settle' GROUP BY 1"
    settled = dict(await sql(where, query))
    assert {conversation_id: settled[conversation_id] for conversation_id in load.done.answers} == dict.fromkeys(
        load.done.answers, 1
    )
