"""Documents of runs. The tenant's collection adds org_id to each.

A run is one document: its question, its attempts and, when it has ended, its answer. The events of a run that lasts are
stored in batches while it does; those that are not stored by its end go into the run itself.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, NotRequired, TypedDict
from uuid import UUID

from ..conversations.models import Exchange, RunState
from ..llm.base import Effort
from ..workspaces.retrieval import Retrieval

__all__ = ["AttemptRecord", "Cost", "EventBatch", "Failure", "Run", "RunPlan", "RunState", "Settlement", "Usage"]


class ClaimLost(Exception):
    """Another server has taken the run over, or has ended it: this one must not touch it any more."""


class HandedOver(Exception):
    """The run goes on in another server: what was said here is stored, and its claim is to be released."""


class StopReason(StrEnum):
    """Why a run in progress is to end before its answer does."""

    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"  # the server shuts down
    LOST = "lost"  # another server has taken it over
    HANDED_OVER = "handed_over"  # the server shuts down, and another one is to resume it


class Usage(TypedDict):
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    input_audio_tokens: int
    output_audio_tokens: int
    estimated: bool
    above_limit: NotRequired[bool]  # missing in what was stored before it was known


class Cost(TypedDict):
    nanos: int
    currency: str
    version: str  # of the price list


class Failure(TypedDict):
    reason: int  # value of ErrorReason
    message: str


class Settlement(TypedDict):
    """What ends the reservation of an attempt in the ledger."""

    number: int
    usage: Usage | None  # None: nothing to pay, and the reservation is released
    cost: Cost


class RunPlan(TypedDict):
    """What the run may do, so that another server can resume it."""

    models: list[str]
    temperature: float | None
    stop: list[str]
    seed: int | None
    reasoning_effort: Effort | None
    max_output_tokens: int
    continue_broken_answers: bool
    resume_interrupted_runs: bool
    hedge_after_seconds: float


class AttemptParameters(TypedDict):
    """Parameters of the request, without the stop texts."""

    temperature: float | None
    seed: int | None
    reasoning_effort: Effort | None
    max_output_tokens: int


class AttemptRecord(TypedDict):
    """One request to a provider: timing, outcome and cost. What was said is not in it."""

    number: int  # within the run, from 1
    model: str
    own_key: bool
    continues: bool
    parameters: AttemptParameters
    message_count: int
    counted_input_tokens: int
    provider_response_id: str
    status: int  # of HTTP; 0: no response
    state: str  # a RunState
    failure: Failure | None
    error: str  # what the provider said, without keys; never shown to callers
    usage: Usage | None
    cost: Cost | None
    start_time: datetime
    first_content_time: datetime | None
    end_time: datetime | None


class StoredSource(TypedDict):
    """A passage of a document that the models of a run are given: the slice [start, end) of a version's text."""

    number: int  # by which a model cites it, from 1
    rank: int  # from 0, the best
    document_id: UUID
    version_id: UUID
    version: int
    document_name: str
    place: dict[str, Any]  # fields of Place
    text: str
    start: int
    end: int


class Run(Exchange):
    workspace_id: UUID
    user_id: UUID
    model: str  # that was asked for
    plan: RunPlan
    finish_reason: str
    failure: Failure | None
    usage: Usage | None  # of all attempts together, as is the cost
    cost: Cost | None
    attempt_count: int  # 0 while the run is in progress
    attempts: list[AttemptRecord]
    unsettled: list[Settlement]  # of attempts that the ledger may not know of yet
    takeovers: int  # how many servers have taken it over; fences off those before
    first_events: list[bytes]  # stored with the run itself; none in runs of earlier releases
    last_events: list[bytes]  # stored with its end, the terminal event last
    event_count: int  # 0 while the run is in progress
    end_id: UUID | None  # made by the server that stored the end
    end_time: datetime | None
    retrieval: NotRequired[Retrieval | None]  # documents to search; missing in runs of earlier releases
    # Missing until they were searched, and empty after the end: a deleted document must not live on here.
    sources: NotRequired[list[StoredSource]]
    dropped_citation_count: NotRequired[int]  # missing if there are none
    trace: NotRequired[str]  # of the call that started it, if it is recorded; see Tracing.carried


class EventBatch(TypedDict):
    """Consecutive events of a run, encoded as clients get them."""

    _id: UUID
    run_id: UUID
    first: int  # sequence of the first of them
    events: list[bytes]
