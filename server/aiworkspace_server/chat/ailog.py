"""The AI log: every request to a provider, with its timing, its outcome and what it cost."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid5

from ..kit.stores import retry_until_available
from ..kit.timestamps import now
from ..llm.base import ModelRequest, ProviderError
from ..llm.tokens import estimate_input
from .asking import Asking
from .models import Attempt, AttemptParameters, Ending
from .store import ChatStore


class AiLog:
    """Writes what it is told beside the run, which does not wait for it until its end."""

    def __init__(self, store: ChatStore, run_id: UUID) -> None:
        self._store = store
        self._run_id = run_id
        self._written: asyncio.Task[None] | None = None

    def begin(self, asking: Asking) -> None:
        """To be called when the provider is about to be asked."""
        attempt = _attempt(self._run_id, asking)
        self._write(lambda: self._store.save_attempt(attempt))

    def end(self, asking: Asking, ending: Ending) -> None:
        attempt = _attempt(self._run_id, asking)
        attempt["usage"], attempt["cost"] = ending["usage"], ending["cost"]
        self._write(lambda: self._store.end_attempt(attempt))

    async def written(self) -> None:
        if self._written:
            await self._written

    def close(self) -> None:
        if self._written:
            self._written.cancel()

    def _write(self, work: Callable[[], Awaitable[None]]) -> None:
        self._written = asyncio.create_task(_then(self._written, work))


async def _then(before: asyncio.Task[None] | None, work: Callable[[], Awaitable[None]]) -> None:
    if before:
        await before
    await retry_until_available(work)


def attempt_id(run_id: UUID, number: int) -> UUID:
    """The same whoever writes it down, so that it is written once."""
    return uuid5(run_id, str(number))


def _attempt(run_id: UUID, asking: Asking) -> Attempt:
    return Attempt(
        _id=attempt_id(run_id, asking.number),
        run_id=run_id,
        number=asking.number,
        model=asking.target.model,
        own_key=asking.target.own_key,
        continues=asking.continues,
        parameters=_parameters(asking.request),
        message_count=len(asking.request.turns),
        counted_input_tokens=estimate_input(asking.request),
        provider_response_id=asking.response_id,
        status=asking.status,
        state=asking.state,
        failure=asking.failure,
        error=_told(asking.error),
        usage=None,
        cost=None,
        start_time=asking.start_time or now(),
        first_content_time=asking.first_content_time,
        end_time=asking.end_time,
    )


def _told(error: BaseException | None) -> str:
    """The text of what a provider did is free of keys; that of anything else may hold what people said."""
    if error is None or isinstance(error, ProviderError):
        return error.message if error else ""
    return type(error).__name__


def _parameters(request: ModelRequest) -> AttemptParameters:
    return AttemptParameters(
        temperature=request.parameters.temperature,
        seed=request.parameters.seed,
        reasoning_effort=request.parameters.reasoning_effort,
        max_output_tokens=request.max_output_tokens,
    )
