"""Passwords: refused if easily guessed, and hashed with bcrypt over a keyed hash, in separate threads."""

import asyncio
import base64
import hmac
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

import bcrypt

from ..kit import typed
from ..kit.errors import InvalidArgument, Unavailable
from .strength import weakness

MOST_WAITING = 64

Args = TypeVarTuple("Args")
Result = TypeVar("Result")


class _Queue:
    """Threads that hash passwords, with a bounded queue."""

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix=f"passwords-{name}")
        self._waiting = 0

    async def run(self, function: Callable[[*Args], Result], *args: *Args) -> Result:
        """Run the function in a thread. Raises Unavailable if the queue is full."""
        if self._waiting >= MOST_WAITING:
            raise Unavailable("Too many people are signing in at the moment. Retry in 5 s.", retry_seconds=5)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


class Passwords:
    """Hashes and checks passwords.

    A password is hashed in its normal form. It is compared in that form and as it was typed, which older hashes used.
    HMAC-SHA-384 with the pepper comes first: bcrypt reads only 72 bytes and stops at NUL, and without the pepper a
    stolen table is useless. Hashing runs in threads with a bounded queue, so that many sign-ins do not block the event
    loop. Callers that are known by a device or a session have their own queue and threads, so that strangers cannot
    make them wait.
    """

    def __init__(self, pepper: str, cost: int) -> None:
        self._pepper = pepper.encode()
        self._cost = cost
        self._strangers, self._known = _Queue("strangers"), _Queue("known")
        self.nobodys_hash = self.hash("")

    async def hash_new(self, password: str, field: str, inputs: Sequence[str], *, known: bool = False) -> str:
        """Return the hash of a new password. `inputs` are the owner's address and name, which others know.

        Raises InvalidArgument, naming the field, if the password is easily guessed.
        """
        return await self._queue(known).run(self._hash_new, password, field, inputs)

    async def matches(self, password: str, password_hash: str | None, *, known: bool = False) -> bool:
        """Return whether the password belongs to the hash. Without a hash, return False after the same time."""
        found = await self._queue(known).run(self._check, password, password_hash or self.nobodys_hash)
        return found and password_hash is not None

    def close(self) -> None:
        self._strangers.close()
        self._known.close()

    def _queue(self, known: bool) -> "_Queue":
        return self._known if known else self._strangers

    def _hash_new(self, password: str, field: str, inputs: Sequence[str]) -> str:
        normal = typed.password(password)
        if problem := weakness(normal, inputs):
            raise InvalidArgument({field: problem})
        return self.hash(normal)

    def hash(self, password: str) -> str:
        """Return the hash of a password as it is. To be called in a thread: it takes long."""
        return bcrypt.hashpw(self.keyed(password), bcrypt.gensalt(self._cost)).decode()

    def _check(self, password: str, password_hash: str) -> bool:
        forms = dict.fromkeys((typed.password(password), password))
        return any(bcrypt.checkpw(self.keyed(form), password_hash.encode()) for form in forms)

    def keyed(self, password: str) -> bytes:
        """Return what bcrypt hashes."""
        return base64.b64encode(hmac.digest(self._pepper, password.encode(), "sha384"))
