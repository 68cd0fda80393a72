"""One attempt while it lasts: the request to a provider, its outcome, and what it cost."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, cast

from ...kit.timestamps import now
from ...llm.base import Answering, Cited, Delta, Finish, ModelRequest, Piece, ProviderError, TokenUsage
from ...llm.breaker import Pass
from ...llm.prices import price
from ...llm.tokens import usage_when_cut
from ...policies.plan import Target
from ..models import AttemptParameters, AttemptRecord, Cost, Failure, RunState, Settlement, StopReason, Usage
from .failures import TIMED_OUT, failure_of

Send = Callable[["Attempt", Delta], None]
Cite = Callable[["Attempt", Cited], None]

_LEAST_OUTPUT = 16  # tokens that some providers charge at least, however few were asked for


class Attempt:
    """Sends its content to `send`, citations beside it to `cite`, and keeps everything else."""

    def __init__(
        self,
        number: int,
        target: Target,
        request: ModelRequest,
        counted_input_tokens: int,
        send: Send,
        cite: Cite,
        reserve_time: datetime,
        *,
        continues: bool,
    ) -> None:
        self.number = number
        self.target = target
        self.request = replace(request, on_sent=self._note_sent)
        self.continues = continues
        self.admitted: Pass | None = None  # by the account's circuit breaker
        self.lost = False  # another attempt was faster
        self.state = RunState.RUNNING
        self.error: BaseException | None = None
        self.failure: Failure | None = None
        self.finish_reason = ""
        self._counted_input_tokens = counted_input_tokens
        self._reserve_time = reserve_time
        self._settlement: Settlement | None = None
        self._work: asyncio.Task[Any] | None = None
        self._response_id = ""
        self._sent = False  # the request left this machine
        self._start_time: datetime | None = None  # None: the provider was not asked
        self._first_content_time: datetime | None = None
        self._end_time: datetime | None = None
        self._send = send
        self._cite = cite
        self._said_tokens = 0
        self._usage: TokenUsage | None = None
        self._usage_is_current = False  # nothing was said after the provider's last count

    @property
    def has_output(self) -> bool:
        return self._said_tokens > 0

    @property
    def first_content_seconds(self) -> float | None:
        """The time from the request to the first content; None if there was none."""
        if self._start_time is None or self._first_content_time is None:
            return None
        return (self._first_content_time - self._start_time).total_seconds()

    @property
    def excess(self) -> TokenUsage | None:
        """The provider's count, if it is more than was asked for."""
        return self._usage if self._usage and self._usage.above_limit else None

    @property
    def overbilled(self) -> bool:
        """Whether the provider counted more output than was asked for, which no input can bring about."""
        most = max(self.request.max_output_tokens, _LEAST_OUTPUT)
        return self._usage is not None and self._usage.output_tokens > most

    async def ask(self) -> None:
        """Send the request and take the response to its end. Raise ProviderError."""
        self._start_time = now()
        async with aclosing(self.target.provider.stream(self.request)) as reads:
            async for pieces in reads:
                self._take(pieces)

    def _take(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if type(piece) is Delta:
                if not self._said_tokens:
                    self._note_first_content()
                self._usage_is_current = False
                self._said_tokens += piece.tokens
                self._send(self, piece)
            elif type(piece) is TokenUsage:
                self._usage, self._usage_is_current = piece, True
            elif type(piece) is Finish:
                self.finish_reason = piece.reason
            elif type(piece) is Answering:
                self._response_id = piece.response_id
            elif type(piece) is Cited:
                self._cite(self, piece)

    def _note_sent(self) -> None:
        self._sent = True

    def _note_first_content(self) -> None:
        self._first_content_time = now()
        if self.admitted:
            self.admitted.answered()

    def run_as(self, task: asyncio.Task[Any]) -> None:
        """Have `lose` cancel this task."""
        self._work = task
        if self.lost:
            task.cancel()

    def lose(self) -> None:
        """Stop the attempt: another one was faster."""
        self.lost = True
        if self._work:
            self._work.cancel()

    def end(self, task: asyncio.Task[None], stop_reason: StopReason | None) -> None:
        """Take the outcome from the task that ran `ask`."""
        self.error = None if task.cancelled() else task.exception()
        self._end_time = now()
        if self.finish_reason:
            self.state = RunState.COMPLETED
        elif stop_reason or self.lost:
            interrupted = stop_reason in (StopReason.INTERRUPTED, StopReason.HANDED_OVER)
            self.state = RunState.INTERRUPTED if interrupted else RunState.CANCELLED
        else:
            self.state = RunState.FAILED
            self.failure = TIMED_OUT if task.cancelled() else failure_of(self.error)

    def refuse(self, error: ProviderError) -> None:
        """End it before the provider is asked."""
        self.error, self.state, self.failure, self._end_time = error, RunState.FAILED, failure_of(error), now()

    def settlement(self) -> Settlement:
        """Return what ends its reservation. To be called once it has ended."""
        if self._settlement is None:
            self._settlement = settle(self.number, self.target.model, self._billed(), self._reserve_time)
        return self._settlement

    def _billed(self) -> TokenUsage | None:
        """Return the provider's count, or an estimate if it has none that covers all that was said.

        None if the provider cannot have charged anything. If it sent nothing, we cannot know whether it charged; the
        input is billed as an estimate, and a reconciliation with the provider's bill corrects it.
        """
        counted = self._usage if self._usage and self._usage.plausible else None
        if counted and (self.finish_reason or self._usage_is_current):
            return counted
        free = isinstance(self.error, ProviderError) and self.error.free
        if not self._sent or (free and not counted and not self._said_tokens):
            return None
        return usage_when_cut(self.request, self._said_tokens, counted)

    def record(self) -> AttemptRecord:
        """Return its record as of now."""
        record = new_record(
            self.number,
            self.target.model,
            self.request,
            self._counted_input_tokens,
            self._start_time or now(),
            own_key=self.target.own_key,
            continues=self.continues,
        )
        if self.state != RunState.RUNNING:
            ended = self.settlement()
            record["usage"], record["cost"] = ended["usage"], ended["cost"]
        record["provider_response_id"], record["status"] = self._response_id, self._status()
        record["state"], record["failure"], record["error"] = self.state, self.failure, _logged(self.error)
        record["first_content_time"], record["end_time"] = self._first_content_time, self._end_time
        return record

    def _status(self) -> int:
        """Return the HTTP status of the response, 0 if there was none."""
        if isinstance(self.error, ProviderError) and self.error.status:
            return self.error.status
        return 200 if self._response_id or self._said_tokens or self._usage else 0


def new_record(
    number: int,
    model: str,
    request: ModelRequest,
    counted_input_tokens: int,
    start_time: datetime,
    *,
    own_key: bool,
    continues: bool = False,
) -> AttemptRecord:
    """Return the record of an attempt of which nothing is known but its beginning."""
    return AttemptRecord(
        number=number,
        model=model,
        own_key=own_key,
        continues=continues,
        parameters=_parameters(request),
        message_count=len(request.turns),
        counted_input_tokens=counted_input_tokens,
        provider_response_id="",
        status=0,
        state=RunState.RUNNING,
        failure=None,
        error="",
        usage=None,
        cost=None,
        start_time=start_time,
        first_content_time=None,
        end_time=None,
    )


def settle(number: int, model: str, usage: TokenUsage | None, reserve_time: datetime) -> Settlement:
    """Price an attempt's usage as of the time at which it was reserved."""
    if usage is None:
        return unpaid(number)
    cost = price(model, usage, reserve_time)
    return Settlement(
        number=number,
        usage=cast(Usage, asdict(usage)),
        cost=Cost(nanos=cost.nanos, currency=cost.currency, version=cost.version),
    )


def unpaid(number: int) -> Settlement:
    """Return the settlement of an attempt that costs nothing."""
    return Settlement(number=number, usage=None, cost=Cost(nanos=0, currency="USD", version="none"))


def _logged(error: BaseException | None) -> str:
    """Return an error's text if it is a provider's, which has no keys in it; that of others may quote what was said."""
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
