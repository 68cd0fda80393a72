"""What this process asks Redis, and whether a cluster could answer it: each command and transaction in one slot."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import ResponseError

Command = tuple[Any, ...]


class RedisCommands:
    """Every command that clients of this process send, by connection."""

    def __init__(self) -> None:
        self._sent: defaultdict[int, list[Command]] = defaultdict(list)

    @contextmanager
    def recording(self) -> Iterator[None]:
        pack_one, pack_many = AbstractConnection.pack_command, AbstractConnection.pack_commands

        def one(connection: AbstractConnection, *command: Any) -> list[bytes]:
            self._sent[id(connection)].append(command)
            return pack_one(connection, *command)

        def many(connection: AbstractConnection, commands: Iterable[Command]) -> list[bytes]:
            commands = list(commands)
            self._sent[id(connection)] += commands
            return pack_many(connection, commands)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AbstractConnection, "pack_command", one)
            patch.setattr(AbstractConnection, "pack_commands", many)
            yield

    @property
    def names(self) -> set[str]:
        return {_name(command) for sent in self._sent.values() for command in sent}

    async def crossing(self, redis: Any) -> set[str]:
        """Commands, and commands in transactions, whose keys are in several slots. Redis itself says what is a key."""
        found = set()
        for sent in list(self._sent.values()):
            for group in _groups(sent):
                keys = [key for command in group for key in await _keys_of(redis, command)]
                if len({key_slot(key) for key in keys}) > 1:
                    found.add(" ".join(_name(command) for command in group))
        return found


def _groups(sent: list[Command]) -> Iterator[list[Command]]:
    """Transactions, and the commands outside of them."""
    transaction: list[Command] | None = None
    for command in sent:
        if _name(command) == "MULTI":
            transaction = []
        elif _name(command) in ("EXEC", "DISCARD"):
            yield transaction or []
            transaction = None
        elif transaction is not None:
            transaction.append(command)
        else:
            yield [command]


async def _keys_of(redis: Any, command: Command) -> list[bytes]:
    try:
        keys: list[str] = await redis.command_getkeys(*_name(command).split(), *command[1:])
    except ResponseError as error:
        if "no key arguments" in str(error):
            return []
        raise
    return [key.encode() for key in keys]


def _name(command: Command) -> str:
    name = command[0]
    return (name.decode() if isinstance(name, bytes) else str(name)).upper()
