"""One attempt while it lasts: the request to a provider, what came of it, and what there is to pay."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, cast

from ..kit.timestamps import now
from ..llm.base import Answering, Delta, Finish, ModelRequest, Piece, ProviderError, TokenUsage
from ..llm.breaker import Pass
from ..llm.prices import price
from ..llm.tokens import usage_when_cut
from ..policies.plan import Target
from .failures import TIMED_OUT, failure_of
from .models import Cost, Ending, Failure, Usage

Speak = Callable[["Asking", Delta], None]

_LEAST_OUTPUT = 16  # tokens that some providers charge at least, however few were asked for


class Asking:
    """Its content goes to `speak`; everything else is kept here."""

    def __init__(
        self,
        number: int,
        target: Target,
        request: ModelRequest,
        speak: Speak,
        reserve_time: datetime,
        *,
        continues: bool,
    ) -> None:
        self.number = number
        self.target = target
        self.request = replace(request, on_sent=self._note_sent)
        self.continues = continues
        self._reserve_time = reserve_time
        self.admitted: Pass | None = None  # by the account's circuit breaker
        self.work: asyncio.Task[Any] | None = None  # what it waits for
        self.lost = False  # whether another attempt was faster
        self.state = "running"
        self.error: BaseException | None = None
        self.failure: Failure | None = None
        self.response_id = ""
        self.finish_reason = ""
        self.start_time: datetime | None = None  # none: the provider was not asked
        self.sent = False  # whether the request left this machine
        self.first_content_time: datetime | None = None
        self.end_time: datetime | None = None
        self._speak = speak
        self._said_tokens = 0
        self._usage: TokenUsage | None = None
        self._usage_is_current = False  # whether nothing was said after the provider's last count

    @property
    def spoke(self) -> bool:
        return self._said_tokens > 0

    @property
    def status(self) -> int:
        """HTTP status of the provider's answer, 0 when there was none."""
        if isinstance(self.error, ProviderError) and self.error.status:
            return self.error.status
        return 200 if self.response_id or self._said_tokens or self._usage else 0

    @property
    def excess(self) -> TokenUsage | None:
        """What the provider counted, if that is more than was asked of it."""
        return self._usage if self._usage and self._usage.above_limit else None

    @property
    def overbilled(self) -> bool:
        """Whether it counted more output than was asked of it, which no input can bring about."""
        most = max(self.request.max_output_tokens, _LEAST_OUTPUT)
        return self._usage is not None and self._usage.output_tokens > most

    async def ask(self) -> None:
        self.start_time = now()
        async with aclosing(self.target.provider.stream(self.request)) as reads:
            async for pieces in reads:
                self._take(pieces)

    def _take(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if type(piece) is Delta:
                if not self._said_tokens:
                    self._began_to_answer()
                self._usage_is_current = False
                self._said_tokens += piece.tokens
                self._speak(self, piece)
            elif type(piece) is TokenUsage:
                self._usage, self._usage_is_current = piece, True
            elif type(piece) is Finish:
                self.finish_reason = piece.reason
            elif type(piece) is Answering:
                self.response_id = piece.response_id

    def _note_sent(self) -> None:
        self.sent = True

    def _began_to_answer(self) -> None:
        self.first_content_time = now()
        if self.admitted:
            self.admitted.answered()

    def lose(self) -> None:
        """Stops it: another one was faster."""
        self.lost = True
        if self.work:
            self.work.cancel()

    def end(self, task: asyncio.Task[None], stop_state: str) -> None:
        """Notes how it ended, from the task that asked."""
        self.error = None if task.cancelled() else task.exception()
        self.end_time = now()
        if self.finish_reason:
            self.state = "completed"
        elif stop_state or self.lost:
            self.state = stop_state or "cancelled"
        else:
            self.state, self.failure = "failed", TIMED_OUT if task.cancelled() else failure_of(self.error)

    def refuse(self, error: ProviderError) -> None:
        """Ends it before the provider was asked."""
        self.error, self.state, self.failure, self.end_time = error, "failed", failure_of(error), now()

    def ending(self) -> Ending:
        return ending(self.number, self.target.model, self._account(), self._reserve_time)

    def _account(self) -> TokenUsage | None:
        """What the provider counted; an estimate where it did not, or not to the end of what was said.

        None when it cannot have charged anything. Of silence nobody knows whether it has to be paid: the input is
        estimated then, and marked, and a reconciliation with the provider's bill corrects it.
        """
        counted = self._usage if self._usage and self._usage.plausible else None
        if counted and (self.finish_reason or self._usage_is_current):
            return counted
        free = isinstance(self.error, ProviderError) and self.error.free
        if not self.sent or (free and not counted and not self._said_tokens):
            return None
        return usage_when_cut(self.request, self._said_tokens, counted)


def unpaid(number: int) -> Ending:
    """Of an attempt for which there is nothing to pay."""
    return Ending(number=number, usage=None, cost=Cost(nanos=0, currency="USD", version="none"))


def ending(number: int, model: str, usage: TokenUsage | None, reserve_time: datetime) -> Ending:
    """At the prices of the time at which the attempt was reserved."""
    if usage is None:
        return unpaid(number)
    cost = price(model, usage, reserve_time)
    return Ending(
        number=number,
        usage=cast(Usage, asdict(usage)),
        cost=Cost(nanos=cost.nanos, currency=cost.currency, version=cost.version),
    )
