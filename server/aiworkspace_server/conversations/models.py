"""Documents of conversations and what people see of them. The tenant's collection adds org_id to each document.

What was said lies in the collection `runs`, whose documents hold a question and its answer each. `Exchange` is that
part of a run. See runs/models.py for the rest, which the engine alone reads and writes.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NotRequired, TypedDict
from uuid import UUID

from ..llm.base import DeltaKind
from ..workspaces.retrieval import Retrieval


class Conversation(TypedDict):
    _id: UUID
    workspace_id: UUID
    user_id: UUID  # the only person who sees it
    title: str
    model: str  # empty: the workspace's default
    size_bytes: int  # of all questions and answers; grows with each, so it tells whether something was said
    active_run_id: UUID | None
    # Missing in earlier releases. The next one's id has to be greater: runs of a conversation are ordered by their ids.
    last_run_id: NotRequired[UUID]
    version: int
    create_time: datetime
    update_time: datetime
    delete_time: datetime | None
    purge_time: datetime | None  # set once a deleted conversation has no content left
    retrieval: NotRequired[Retrieval | None]  # None, and missing in earlier releases: the workspace's


class Content(TypedDict):
    kind: DeltaKind
    text: str


class RunState(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class Omission(StrEnum):
    """Why passages of documents may be missing in what a model was given."""

    PERMISSION = "permission"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    NO_ROOM = "no_room"
    VECTORS = "vectors"


class Citation(TypedDict):
    """A passage that supports the words [start, end) of an answer's text. All positions are code points."""

    start: int
    end: int
    document_id: UUID
    version_id: UUID
    version: int
    document_name: str
    place: dict[str, Any]  # fields of Place
    quote: str
    quote_start: int  # in the canonical text of the version
    quote_end: int


class Exchange(TypedDict):
    """A question and its answer, which people see as two messages."""

    _id: UUID  # of the run
    conversation_id: UUID
    user_message_id: UUID
    message_id: UUID  # of the answer
    question: list[Content]
    answer: list[Content]  # empty while the run is in progress, and when nothing was said
    answer_model: str  # that gave the last of the answer
    state: str  # a RunState
    create_time: datetime
    citations: NotRequired[list[Citation]]  # of the answer; missing if there are none
    omissions: NotRequired[list[str]]  # each an Omission; missing if no documents were searched


class Message(TypedDict):
    """One side of an exchange, as the contract has it."""

    message_id: UUID
    conversation_id: UUID
    run_id: UUID
    role: str  # user, assistant
    contents: list[Content]
    partial: bool
    model: str
    create_time: datetime
    citations: Sequence[Citation]
    omissions: Sequence[str]


def question_of(exchange: Exchange) -> Message:
    return Message(
        message_id=exchange["user_message_id"],
        conversation_id=exchange["conversation_id"],
        run_id=exchange["_id"],
        role="user",
        contents=exchange["question"],
        partial=False,
        model="",
        create_time=exchange["create_time"],
        citations=(),
        omissions=(),
    )


def answer_of(exchange: Exchange) -> Message | None:
    """Return the assistant's message; None if there is none."""
    if not exchange["answer"]:
        return None
    return Message(
        message_id=exchange["message_id"],
        conversation_id=exchange["conversation_id"],
        run_id=exchange["_id"],
        role="assistant",
        contents=exchange["answer"],
        partial=exchange["state"] != RunState.COMPLETED,
        model=exchange["answer_model"],
        create_time=exchange["create_time"],
        citations=exchange.get("citations", ()),
        omissions=exchange.get("omissions", ()),
    )
