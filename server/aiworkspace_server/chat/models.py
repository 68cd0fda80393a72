"""Shapes of the documents in MongoDB. The tenant's collection adds org_id to each."""

from datetime import datetime
from typing import NotRequired, TypedDict
from uuid import UUID

from ..llm.base import DeltaKind, Effort


class Conversation(TypedDict):
    _id: UUID
    workspace_id: UUID
    user_id: UUID  # the only person who sees it
    title: str
    model: str  # empty: the workspace's default
    size_bytes: int  # of everything said, which grows with whatever is said
    active_run_id: UUID | None
    version: int
    create_time: datetime
    update_time: datetime
    delete_time: datetime | None
    purge_time: datetime | None  # when nothing was left of what was said, after a deletion


class Content(TypedDict):
    kind: DeltaKind
    text: str


class Message(TypedDict):
    _id: UUID
    conversation_id: UUID
    run_id: UUID
    role: str  # user, assistant
    contents: list[Content]
    partial: bool
    model: str
    create_time: datetime


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
    version: str


class Failure(TypedDict):
    reason: int  # value of ErrorReason
    message: str


class Ending(TypedDict):
    """What an attempt used, as the ledger has it or will have it."""

    number: int
    usage: Usage | None  # none: there is nothing to pay, and the reservation is released
    cost: Cost


class RunPlan(TypedDict):
    """What the run may do, to go on with it after its server is gone."""

    models: list[str]
    temperature: float | None
    stop: list[str]
    seed: int | None
    reasoning_effort: Effort | None
    max_output_tokens: int
    continue_broken_answers: bool
    resume_interrupted_runs: bool
    hedge_after_seconds: float


class Run(TypedDict):
    _id: UUID
    workspace_id: UUID
    conversation_id: UUID
    user_id: UUID
    user_message_id: UUID
    message_id: UUID
    model: str
    plan: RunPlan
    state: str  # running, completed, failed, cancelled, interrupted
    finish_reason: str
    failure: Failure | None
    usage: Usage | None  # of all attempts together, as is the cost
    cost: Cost | None
    attempt_count: int  # 0 while it is in progress
    endings: list[Ending]  # of the attempts that the ledger may not know of yet
    end_id: UUID | None  # made by who stored the end
    create_time: datetime
    end_time: datetime | None


class AttemptParameters(TypedDict):
    """As in the request, without the stop texts."""

    temperature: float | None
    seed: int | None
    reasoning_effort: Effort | None
    max_output_tokens: int


class Attempt(TypedDict):
    """One request to a provider, in the AI log. What was said is not in it."""

    _id: UUID
    run_id: UUID
    number: int  # within the run, from 1
    model: str
    own_key: bool
    continues: bool
    parameters: AttemptParameters
    message_count: int
    counted_input_tokens: int
    provider_response_id: str
    status: int  # of HTTP, 0 when there was none
    state: str  # running, completed, failed, cancelled, interrupted
    failure: Failure | None
    error: str  # what the provider said, without keys; never shown to callers
    usage: Usage | None
    cost: Cost | None
    start_time: datetime
    first_content_time: datetime | None
    end_time: datetime | None


class EventBatch(TypedDict):
    """Consecutive events of a run, in the bytes in which clients get them."""

    _id: UUID
    run_id: UUID
    first: int  # sequence of the first of them
    events: list[bytes]
