"""Passwords: refused when easily guessed, and hashed with bcrypt over a keyed hash, in threads of their own."""

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
    """Threads that hash, and a bounded queue of what waits for them."""

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix=f"passwords-{name}")
        self._waiting = 0

    async def run(self, function: Callable[[*Args], Result], *args: *Args) -> Result:
        """Raises Unavailable when too many wait."""
        if self._waiting >= MOST_WAITING:
            raise Unavailable("Too many people are signing in. Try again in a moment.", retry_seconds=5)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


class Passwords:
    """Hashes and checks passwords.

    A password is hashed in its normal form, and compared in that form and as it was typed: older hashes are of that.
    HMAC-SHA-384 with the pepper comes first: bcrypt reads 72 bytes and stops at NUL, and a stolen table is of no use
    without the pepper. Threads of their own do it, so that a storm of sign-ins leaves the event loop alone; beyond a
    bounded queue callers are sent away. Whoever is known, by a device or a session, has a queue and threads apart from
    those of strangers, who so cannot make them wait.
    """

    def __init__(self, pepper: str, cost: int) -> None:
        self._pepper = pepper.encode()
        self._cost = cost
        self._strangers, self._known = _Queue("strangers"), _Queue("known")
        self.nobodys_hash = self.hash("")

    async def hash_new(self, password: str, field: str, inputs: Sequence[str], *, known: bool = False) -> str:
        """The hash of a password that somebody chose. `inputs` is what others know of them: address and name.

        Raises InvalidArgument, naming the field, when it is easily guessed.
        """
        return await self._queue(known).run(self._hash_new, password, field, inputs)

    async def matches(self, password: str, password_hash: str | None, *, known: bool = False) -> bool:
        """Whether the password belongs to the hash. Without a hash it takes as long, and is False."""
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
