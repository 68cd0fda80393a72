"""The operator's own model server: OpenAI's format, with a list of models that has to be requested from it.

It may be down, hang, or send nonsense. Meanwhile its last list is used, callers wait only briefly for a new one, and
requests that it would not answer fail soon, so that a fallback model can be used.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import structlog

from .base import ErrorKind, ModelInfo, ModelRequest, Piece, ProviderError
from .clock import Clocks, LocalClocks
from .lenient import loads, record, string
from .openai_wire import OpenAIProvider, Profile

_LONGEST_NAME = 190  # with "local/" within the 200 that the contract allows
_MOST_NAMES = 1000

log = structlog.get_logger()


class LocalProvider(OpenAIProvider):
    """A local model server. Its models cost nothing in the ledger."""

    def __init__(
        self, *, base_url: str, clocks: Clocks, api_key: str | None = None, local: LocalClocks | None = None
    ) -> None:
        super().__init__(
            Profile("local", base_url, "max_tokens", any_model=True), api_key=api_key or "none", clocks=clocks
        )
        self._local = local or LocalClocks()
        self._names: list[str] = []
        self._failure: ProviderError | None = None
        self._asked = float("-inf")  # when the list was last requested
        self._listed = float("-inf")  # when the list, or a failure, last arrived
        self._heard = float("-inf")  # when anything last arrived from the server
        self._listing: asyncio.Task[None] | None = None
        self._in_flight = 0  # requests in progress, which may make the server slow to respond

    @property
    def away(self) -> bool:
        return self._failure is not None or (self._listing is not None and not self._listing.done())

    async def models(self) -> Sequence[ModelInfo]:
        """Return the last list. If it is older than a minute, wait briefly for a new one."""
        await self._refresh(self._local.fresh_seconds, self._local.wait_seconds)
        return [ModelInfo(f"local/{name}", "local", name, name, input_price=0, output_price=0) for name in self._names]

    async def has(self, model: str) -> bool:
        """Look in the last list, however old; a miss requests a new one. True while no list was ever received."""
        if model not in self._names:
            await self._refresh(self._local.retry_seconds, 0 if self._failure else self._local.wait_seconds)
        return model in self._names or (self.away and _is_name(model))

    def knows(self, model: str) -> bool:
        return model in self._names

    async def stream(self, request: ModelRequest) -> AsyncGenerator[list[Piece], None]:
        """Stream an answer, once the server has shown a sign of life."""
        await self._look()
        self._in_flight += 1
        try:
            async with aclosing(super().stream(request)) as reads:
                async for pieces in reads:
                    self._heard = time.monotonic()
                    yield pieces
        finally:
            self._in_flight -= 1

    async def aclose(self) -> None:
        if self._listing:
            self._listing.cancel()
        await super().aclose()

    async def _look(self) -> None:
        """Raise ProviderError if the server has not responded lately and does not respond now."""
        if self._in_flight or time.monotonic() - self._heard < self._local.alive_seconds:
            return
        await self._refresh(self._local.retry_seconds, self._local.look_seconds)
        if time.monotonic() - self._heard >= self._local.alive_seconds:
            # It may be busy with other requests: its silence does not count against the account.
            unreached = self._failure is not None and self._failure.kind is ErrorKind.UNREACHED
            kind = ErrorKind.UNREACHED if unreached else ErrorKind.TIMEOUT
            raise ProviderError(kind, f"{self.name}: the server does not answer", free=True)

    async def _refresh(self, oldest: float, seconds: float) -> None:
        """Request a list unless the last one is younger than `oldest`. Wait at most `seconds` since the request."""
        if self._listing is None or self._listing.done():
            if time.monotonic() - self._listed < (self._local.retry_seconds if self._failure else oldest):
                return
            self._asked = time.monotonic()
            self._listing = asyncio.create_task(self._ask())
        await asyncio.wait({self._listing}, timeout=max(0.0, self._asked + seconds - time.monotonic()))

    async def _ask(self) -> None:
        failure = None
        try:
            self._names = _read(await self._list())
        except ProviderError as error:
            failure = error.with_traceback(None)
        except ValueError as error:
            failure = self._failures.unreadable(error)
        self._failure, self._listed = failure, time.monotonic()
        if failure is None or failure.status or failure.kind not in (ErrorKind.UNREACHED, ErrorKind.TIMEOUT):
            self._heard = self._listed
        if failure:
            log.warning("model_list_failed", provider=self.name, kind=failure.kind, error=failure.message)


def _read(answer: bytes) -> list[str]:
    """Return the names in a list of models, without invalid ones. Raises ValueError if it is not a list."""
    entries = record(loads(answer)).get("data")
    if not isinstance(entries, list):
        raise ValueError("not a list of models")
    names = {string(record(entry).get("id")) for entry in entries}
    return sorted(name for name in names if _is_name(name))[:_MOST_NAMES]


def _is_name(name: str) -> bool:
    return 0 < len(name) <= _LONGEST_NAME and name.isprintable() and name == name.strip()
