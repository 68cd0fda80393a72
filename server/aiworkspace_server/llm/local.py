"""A server for models of one's own: OpenAI's format, and a list of models that only the server itself knows."""

import asyncio
import time
from collections.abc import Sequence

import orjson

from .base import ModelInfo, ProviderError
from .clock import Clocks
from .openai_wire import OpenAIProvider, Profile

_FRESH_SECONDS = 60.0
# Neither names that do not exist nor a server that is down become a request for each caller.
_RETRY_SECONDS = 1.0
_LONGEST_NAME = 190  # with "local/" within the 200 that the contract allows


class LocalProvider(OpenAIProvider):
    """One local server. Its models cost nothing here: who runs it pays elsewhere."""

    def __init__(self, *, base_url: str, clocks: Clocks, api_key: str | None = None) -> None:
        super().__init__(Profile("local", base_url, "max_tokens"), api_key=api_key or "none", clocks=clocks)
        self._names: list[str] = []
        self._failure: ProviderError | None = None
        self._asked = float("-inf")
        self._asking = asyncio.Lock()

    async def models(self) -> Sequence[ModelInfo]:
        """The server's list, at most a minute old."""
        await self._refresh(_FRESH_SECONDS)
        return [ModelInfo(f"local/{name}", "local", name, name, input_price=0, output_price=0) for name in self._names]

    async def has(self, model: str) -> bool:
        """By the last list, however old: a server that is down says so when it has to answer. A miss asks again."""
        if model not in self._names:
            await self._refresh(_RETRY_SECONDS)
        return model in self._names

    async def _refresh(self, oldest: float) -> None:
        async with self._asking:
            if time.monotonic() - self._asked >= (_RETRY_SECONDS if self._failure else oldest):
                await self._ask()
            if self._failure:
                raise self._failure.with_traceback(None)

    async def _ask(self) -> None:
        failure = None
        try:
            self._names = _read(await self._list())
        except ProviderError as error:
            failure = error
        except (ValueError, TypeError, LookupError) as error:
            failure = self._failures.unreadable(error)
        self._failure, self._asked = failure, time.monotonic()


def _read(answer: bytes) -> list[str]:
    names = (entry["id"] for entry in orjson.loads(answer)["data"])
    return sorted({name for name in names if name.isprintable() and 0 < len(name) <= _LONGEST_NAME})
