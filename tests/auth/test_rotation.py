"""Rotation of the keys of tokens while people call and refresh: no call fails, and what is retired is refused."""

import asyncio
import json
import secrets
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest

from aiworkspace.v1 import auth_pb2 as pb
from tests.support.accounts import get_me, refresh
from tests.support.outcomes import OK, UNAUTHENTICATED, outcome
from tests.support.people import Person
from tests.support.server_process import ServerProcess

READ_ANEW, AS_THEY_WERE = "token_keys_replaced", "token_keys_kept"
Names = Mapping[str, object]


class Rotating(ServerProcess):
    """A server whose keys stand in a .env file."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir, {"PASSWORD_HASH_COST": "10", "RATE_LIMIT_FACTOR": "1000"})
        self._dotenv = data_dir / ".env"
        data_dir.mkdir()

    def write(self, values: Names) -> None:
        draft = self._dotenv.with_suffix(".draft")
        draft.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        draft.rename(self._dotenv)

    async def change(self, values: Names) -> str:
        """Has the server read these. Returns what it says to that."""
        known = len(self.said())
        self.write(values)
        self.send(signal.SIGHUP)
        async with asyncio.timeout(60):
            while len(self.said()) == known:
                assert self.running
                await asyncio.sleep(0.02)
        return str(self.said()[-1]["event"])

    def said(self) -> list[dict[str, Any]]:
        lines = [
            json.loads(line)
            for line in self.log.read_text().splitlines()
            if line.startswith("{") and line.endswith("}")
        ]
        return [line for line in lines if line["event"] in (READ_ANEW, AS_THEY_WERE)]


class Client:
    """Somebody who calls and refreshes all the time, from sign-in to the end."""

    def __init__(self, address: str) -> None:
        self.person = Person(address)
        self.failed: list[str] = []
        self.rounds = 0

    async def work(self) -> None:
        while True:
            self.failed += [found for found in await self._round() if found != OK]
            self.rounds += 1

    async def _round(self) -> list[str]:
        calls = [self.person.auth.GetMe(pb.GetMeRequest()) for _ in range(4)]
        return await asyncio.gather(*map(outcome, calls), outcome(renew(self.person)))


@asynccontextmanager
async def crowd(address: str) -> AsyncIterator[list[Client]]:
    """Clients that work as long as the context."""
    clients = [Client(address) for _ in range(6)]
    await asyncio.gather(*(client.person.register() for client in clients))
    async with asyncio.TaskGroup() as tasks:
        working = [tasks.create_task(client.work()) for client in clients]
        yield clients
        for task in working:
            task.cancel()
    for client in clients:
        await client.person.channel.close()


async def let_work(clients: list[Client], rounds: int = 3) -> None:
    """Until each has refreshed, and so has only tokens that were signed since."""
    goals = [client.rounds + rounds for client in clients]
    async with asyncio.timeout(60):
        while behind := [client for client, goal in zip(clients, goals, strict=True) if client.rounds < goal]:
            assert [client.failed for client in behind if client.failed] == []
            await asyncio.sleep(0.02)


def secret() -> str:
    return secrets.token_urlsafe(48)


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rotating]:
    server = Rotating(tmp_path_factory.mktemp("rotation") / "data")
    server.write(FIRST)
    async with server:
        yield server


FIRST: Names = {"JWT_SECRET": secret(), "JWT_REFRESH_SECRET": secret(), "PASSWORD_PEPPER": secret()}
SECOND: Names = {**FIRST, "JWT_SECRET": secret(), "JWT_REFRESH_SECRET": secret()}


async def rotate(server: Rotating, now: Names, added: Names, swapped: Names, new: Names) -> Person:
    """Follow the steps of docs/operations.md under load. Return a person who was idle, with tokens of the old keys."""
    assert await server.change(now) == READ_ANEW
    async with crowd(server.address) as clients:
        sleeper = await Person(server.address).register()
        early = clients[0].person.tokens.access_token
        for step in (added, swapped):
            await let_work(clients)
            assert await server.change(step) == READ_ANEW
        await let_work(clients)
        assert await works(sleeper, early) == OK, "tokens of the old key are taken until it is retired"
        assert await server.change(new) == READ_ANEW
        await let_work(clients)
        assert [client.failed for client in clients] == [[]] * len(clients)
        assert kid(early) != kid(clients[0].person.tokens.access_token)
    assert await works(sleeper, early) == UNAUTHENTICATED
    assert await works(sleeper, sleeper.tokens.access_token) == UNAUTHENTICATED
    return sleeper


async def works(person: Person, token: str) -> str:
    person.bearer.token = token
    return await outcome(get_me(person))


async def renew(person: Person) -> None:
    person.tokens = await refresh(person)
    person.bearer.token = person.tokens.access_token


def kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


async def test_new_secrets_of_both_kinds_of_token_fail_no_call(server: Rotating) -> None:
    added = {"JWT_OTHER_SECRETS": SECOND["JWT_SECRET"], "JWT_REFRESH_OTHER_SECRETS": SECOND["JWT_REFRESH_SECRET"]}
    swapped = {"JWT_OTHER_SECRETS": FIRST["JWT_SECRET"], "JWT_REFRESH_OTHER_SECRETS": FIRST["JWT_REFRESH_SECRET"]}
    sleeper = await rotate(server, FIRST, {**FIRST, **added}, {**SECOND, **swapped}, SECOND)
    assert await outcome(refresh(sleeper)) == UNAUTHENTICATED
    await sleeper.channel.close()


async def test_a_key_pair_after_a_secret_fails_no_call(server: Rotating, key_files: dict[str, Path]) -> None:
    new = {**FIRST, "JWT_PRIVATE_KEY_FILE": key_files["EdDSA"]}
    added = {**FIRST, "JWT_OTHER_KEY_FILES": key_files["EdDSA"]}
    swapped = {**new, "JWT_OTHER_SECRETS": FIRST["JWT_SECRET"]}
    sleeper = await rotate(server, FIRST, added, swapped, new)
    assert await outcome(refresh(sleeper)) == OK, "the keys of refresh tokens were left alone"
    await sleeper.channel.close()


async def test_a_key_pair_after_another_fails_no_call(server: Rotating, key_files: dict[str, Path]) -> None:
    now = {**FIRST, "JWT_PRIVATE_KEY_FILE": key_files["RS256"]}
    new = {**FIRST, "JWT_PRIVATE_KEY_FILE": key_files["ES256"]}
    added = {**now, "JWT_OTHER_KEY_FILES": key_files["ES256"]}
    swapped = {**new, "JWT_OTHER_KEY_FILES": key_files["RS256"]}
    sleeper = await rotate(server, now, added, swapped, new)
    assert await outcome(refresh(sleeper)) == OK, "the keys of refresh tokens were left alone"
    await sleeper.channel.close()


async def test_a_configuration_with_a_fault_changes_nothing(server: Rotating, key_files: dict[str, Path]) -> None:
    assert await server.change(FIRST) == READ_ANEW
    person = await Person(server.address).register()
    before = person.tokens.access_token
    faults: list[Names] = [
        {"JWT_SECRET": "short"},
        {"JWT_OTHER_SECRETS": f"{secret()} canary"},
        {"JWT_PRIVATE_KEY_FILE": "nowhere"},
        {"JWT_OTHER_KEY_FILES": f"{key_files['RS256']},{key_files['RS256']}"},
        {"RUN_SECONDS": "0"},
    ]
    for fault in faults:
        assert await server.change({**SECOND, **fault}) == AS_THEY_WERE
        (problem,) = server.said()[-1]["problems"]
        assert problem.startswith(*fault)
        assert await works(person, before) == OK
        assert kid((await refresh(person)).access_token) == kid(before)
    assert "canary" not in server.log.read_text()
    await person.channel.close()
