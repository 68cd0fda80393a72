"""Object stores: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.

Credentials, region and endpoint come from the environment variables of each cloud, which obstore reads.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
import structlog
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store

from ..kit.errors import Unavailable
from ..kit.ids import new_id
from ..settings import SettingsError

if TYPE_CHECKING:  # obstore has these types only for checkers
    from obstore.store import ClientConfig, RetryConfig

WRITE_SECONDS = 600.0  # for a whole object
_PART_BYTES = 5 << 20  # S3 takes no smaller ones. Two of them are in memory: one is sent while the next one fills
_READ_BYTES = 2 << 20
_ABORT_SECONDS = 10.0
_MISSING = NotFoundError, FileNotFoundError  # obstore raises the second one
_FAILURES = BaseError, OSError, TimeoutError

log = structlog.get_logger("documents")


class Objects:
    """One bucket or container, or a prefix in it. Raises Unavailable if it does not answer."""

    def __init__(self, url: str, request_seconds: float) -> None:
        """`url` is what `urls.document_store` returns."""
        self.url = url
        self._seconds = 1.5 * request_seconds  # of an operation, which may repeat a request
        self._store = _open(url, request_seconds)

    async def write(self, key: str, parts: AsyncIterator[bytes]) -> None:
        """Store an object, replacing an earlier one. It exists with its last part, and not before.

        If this is cancelled or `parts` raises, the parts that were sent are deleted.
        """
        stopping = asyncio.Event()
        sending = asyncio.create_task(self._send(key, _until(stopping, parts)))
        try:
            await asyncio.wait({sending}, timeout=WRITE_SECONDS)
        finally:
            # A cancelled task would leave the parts in the store. The error that it gets from its source deletes them.
            stopping.set()
            await asyncio.wait({sending}, timeout=_ABORT_SECONDS)
            sending.cancel()
            [outcome] = await asyncio.gather(sending, return_exceptions=True)
        if isinstance(outcome, _FAILURES):
            raise self._unavailable(outcome) from outcome
        if isinstance(outcome, BaseException):
            raise outcome

    async def _send(self, key: str, parts: AsyncIterator[bytes]) -> None:
        try:
            await obstore.put_async(self._store, key, parts, chunk_size=_PART_BYTES, max_concurrency=1)
        except asyncio.CancelledError:  # the writer's, after the abort took too long
            raise _Stopped from None

    async def read(self, key: str, offset: int, end: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes in [offset, end) in parts of at most 2 MiB. Ends early if there is no such object."""
        while offset < end:
            until = min(end, offset + _READ_BYTES)
            async with self._operation():
                try:
                    data = bytes(await obstore.get_range_async(self._store, key, start=offset, end=until))
                except _MISSING:
                    return
            yield data
            offset = until

    async def delete(self, key: str) -> None:
        """Delete an object, if it exists."""
        await self._delete([key])

    async def delete_under(self, prefix: str) -> bool:
        """Delete all objects whose keys begin with a prefix, which ends with a slash. Return whether there were any."""
        found = False
        while keys := await self._list(prefix):
            await self._delete(keys)
            found = True
        return found

    async def _list(self, prefix: str) -> list[str]:
        """Return the first keys with a prefix."""
        async with self._operation():
            async for metas in obstore.list(self._store, prefix, chunk_size=1000):
                return [meta["path"] for meta in metas]
        return []

    async def _delete(self, keys: list[str]) -> None:
        async with self._operation():
            with suppress(*_MISSING):
                await obstore.delete_async(self._store, keys)

    async def check(self) -> None:
        """Raise SettingsError unless objects can be stored, listed, read and deleted."""
        key, data = f"check/{new_id()}", b"aiworkspace"
        try:
            async with asyncio.timeout(self._seconds):
                await obstore.put_async(self._store, key, data)
                found = bytes(await obstore.get_range_async(self._store, key, start=0, end=len(data)))
                listed = [meta["path"] async for metas in obstore.list(self._store, "check/") for meta in metas]
                await obstore.delete_async(self._store, key)
        except _FAILURES as error:
            raise SettingsError([f"DOCUMENT_STORE: {self.url} cannot be used: {_first_line(error)}"]) from None
        if found != data or key not in listed:
            raise SettingsError([f"DOCUMENT_STORE: {self.url} does not return what was stored there"])

    @asynccontextmanager
    async def _operation(self) -> AsyncIterator[None]:
        """Limit the time of an operation, and raise Unavailable if it fails."""
        try:
            async with asyncio.timeout(self._seconds):
                yield
        except _FAILURES as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: BaseException) -> Unavailable:
        log.warning("document_store_unavailable", store=self.url, error=_first_line(error))
        return Unavailable("The document store does not answer. Retry in a few seconds.", 5)


class ObjectStores:
    """The store for new objects, and those of earlier settings, in which older objects are."""

    def __init__(self, url: str | None, *, request_seconds: float = 30) -> None:
        """`url` is None if new bytes stay in MongoDB. Raises SettingsError if the store cannot be opened."""
        self._stores: dict[str, Objects] = {}
        self._request_seconds = request_seconds
        try:
            self.current = self.at(url) if url else None
        except BaseError as error:
            raise SettingsError([f"DOCUMENT_STORE: {url} cannot be used: {_first_line(error)}"]) from None

    def at(self, url: str) -> Objects:
        if url not in self._stores:
            self._stores[url] = Objects(url, self._request_seconds)
        return self._stores[url]


class _Stopped(TimeoutError):
    """The write was cancelled, or took too long."""


async def _until(stopping: asyncio.Event, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for part in parts:
        if stopping.is_set():
            raise _Stopped
        yield part


def _open(url: str, request_seconds: float) -> ObjectStore:
    # Plain HTTP is possible: an endpoint with http:// is the operator's explicit choice. The defaults are HTTPS.
    client: ClientConfig = {"timeout": timedelta(seconds=request_seconds), "allow_http": True}
    client["connect_timeout"] = timedelta(seconds=min(request_seconds, 5))
    retry: RetryConfig = {"max_retries": 3, "retry_timeout": timedelta(seconds=request_seconds / 3)}
    parts = urlsplit(url)
    prefix = parts.path.strip("/") or None
    if parts.scheme == "s3":
        return S3Store(parts.netloc, prefix=prefix, client_options=client, retry_config=retry)
    if parts.scheme == "gs":
        return GCSStore(parts.netloc, prefix=prefix, client_options=client, retry_config=retry)
    return AzureStore(parts.netloc, prefix=prefix, client_options=client, retry_config=retry)


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's text; obstore's has many."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
