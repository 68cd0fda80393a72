"""Shapes of the documents in MongoDB. The tenant's collection adds org_id to each."""

from datetime import datetime
from typing import TypedDict
from uuid import UUID

from ..llm.base import DeltaKind


class Conversation(TypedDict):
    _id: UUID
    workspace_id: UUID
    user_id: UUID  # the only person who sees it
    title: str
    model: str  # empty: the workspace's default
    size_bytes: int  # of everything said, to estimate what the next answer reads
    active_run_id: UUID | None
    version: int
    create_time: datetime
    update_time: datetime
    delete_time: datetime | None
    purge_time: datetime | None  # of the removal of what was said, after a deletion


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
    estimated: bool


class Cost(TypedDict):
    nanos: int
    currency: str
    version: str


class Failure(TypedDict):
    reason: int  # value of ErrorReason
    message: str


class Run(TypedDict):
    _id: UUID
    workspace_id: UUID
    conversation_id: UUID
    user_id: UUID
    user_message_id: UUID
    message_id: UUID
    model: str
    state: str  # running, completed, failed, cancelled, interrupted
    finish_reason: str
    failure: Failure | None
    usage: Usage | None
    cost: Cost | None
    create_time: datetime
    end_time: datetime | None


class EventBatch(TypedDict):
    """Consecutive events of a run, in the bytes in which clients get them."""

    _id: UUID
    run_id: UUID
    first: int  # sequence of the first of them
    events: list[bytes]
