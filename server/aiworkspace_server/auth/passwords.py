"""Passwords: refused when easily guessed, and hashed with bcrypt over a keyed hash, in threads of their own."""

import asyncio
import base64
import hmac
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

import bcrypt

from ..kit.errors import InvalidArgument, Unavailable
from .strength import weakness

_MOST_WAITING = 64

Args = TypeVarTuple("Args")
Result = TypeVar("Result")


class Passwords:
    """Hashes and checks passwords.

    HMAC-SHA-384 with the pepper comes first: bcrypt reads 72 bytes and stops at NUL, and a stolen table is of no use
    without the pepper. At most one thread per core works, so that a storm of sign-ins leaves the event loop alone;
    beyond a bounded queue callers are sent away.
    """

    def __init__(self, pepper: str, cost: int) -> None:
        self._pepper = pepper.encode()
        self._cost = cost
        self._threads = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="passwords")
        self._waiting = 0
        self._nobodys = self._hash("")

    async def hash_new(self, password: str, field: str, inputs: Sequence[str]) -> str:
        """The hash of a password that somebody chose. `inputs` is what others know of them: address and name.

        Raises InvalidArgument, naming the field, when it is easily guessed.
        """
        return await self._work(self._hash_new, password, field, inputs)

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """Whether the password belongs to the hash. Without a hash it takes as long, and is False."""
        found = await self._work(self._check, password, password_hash or self._nobodys)
        return found and password_hash is not None

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    async def _work(self, function: Callable[[*Args], Result], *args: *Args) -> Result:
        if self._waiting >= _MOST_WAITING:
            raise Unavailable("Too many people are signing in. Try again in a moment.", retry_seconds=5)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        finally:
            self._waiting -= 1

    def _hash_new(self, password: str, field: str, inputs: Sequence[str]) -> str:
        if problem := weakness(password, inputs):
            raise InvalidArgument({field: problem})
        return self._hash(password)

    def _hash(self, password: str) -> str:
        return bcrypt.hashpw(self._keyed(password), bcrypt.gensalt(self._cost)).decode()

    def _check(self, password: str, password_hash: str) -> bool:
        return bcrypt.checkpw(self._keyed(password), password_hash.encode())

    def _keyed(self, password: str) -> bytes:
        return base64.b64encode(hmac.digest(self._pepper, password.encode(), "sha384"))
