"""Tables of documents, their bytes, collections and uploads."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    REAL,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


class _OneOf(TypeDecorator[Any]):
    """A value of an enum, stored as text."""

    impl = Text
    cache_ok = True

    def __init__(self, values: type[StrEnum]) -> None:
        super().__init__()
        self.values = values

    def process_result_value(self, value: str | None, dialect: Any) -> StrEnum | None:
        return None if value is None else self.values(value)


class DocumentUsage(Base):
    """What an organization uses, and has reserved for uploads that are not finished."""

    __tablename__ = "document_usage"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    size_bytes: Mapped[int]
    document_count: Mapped[int]


class Blob(Base):
    """Bytes, which an organization keeps once. The id is that of the upload that brought them."""

    __tablename__ = "blobs"
    __table_args__ = (UniqueConstraint("org_id", "sha256"),)

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    sha256: Mapped[bytes] = mapped_column(LargeBinary)
    size_bytes: Mapped[int]
    create_time: Mapped[datetime]


class Document(Base):
    __tablename__ = "documents"
    __table_args__ = (ForeignKeyConstraint(["org_id", "workspace_id"], ["workspaces.org_id", "workspaces.id"]),)

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True, unique=True)
    workspace_id: Mapped[UUID]
    user_id: Mapped[UUID]  # who uploaded it
    latest_version_id: Mapped[UUID]  # whose bytes are downloaded
    ready_version_id: Mapped[UUID | None]  # which answers searches
    name: Mapped[str]
    version: Mapped[int]  # of the row, for the etag
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]


class State(StrEnum):
    """States of a version.

    PROCESSING → READY, or → FAILED after a step failed for good. RetryDocument leads from FAILED back to PROCESSING.
    ENDED: the version was replaced, or its document deleted; it stays until everything that is stored of it is erased.
    """

    PROCESSING = "processing"
    READY = "ready"
    FAILED = "failed"
    ENDED = "ended"


class Step(StrEnum):
    """Steps in which a version is read, in their order."""

    RECEIVED = "received"
    CHECKED = "checked"
    PARSED = "parsed"
    CHUNKED = "chunked"
    EMBEDDED = "embedded"
    INDEXED = "indexed"


class Reason(StrEnum):
    """Why a step failed. The contract's FailureReason says what each means to people."""

    UNSUPPORTED = "unsupported"
    ENCRYPTED = "encrypted"
    NO_TEXT = "no_text"
    EXPANDS_TOO_FAR = "expands_too_far"
    TOO_MUCH_TEXT = "too_much_text"
    PARSER_TIMEOUT = "parser_timeout"
    PARSER_MEMORY = "parser_memory"
    MALFORMED = "malformed"
    PARSER_CRASHED = "parser_crashed"
    INFECTED = "infected"
    SCANNER_UNAVAILABLE = "scanner_unavailable"
    TOO_LARGE_TO_SCAN = "too_large_to_scan"
    EMBEDDING_UNAVAILABLE = "embedding_unavailable"
    EMBEDDING_REFUSED = "embedding_refused"
    BUDGET_EXHAUSTED = "budget_exhausted"
    INTERNAL = "internal"


class DocumentVersion(Base):
    """One set of bytes of a document, and what was read of them."""

    __tablename__ = "document_versions"
    __table_args__ = (
        ForeignKeyConstraint(["org_id", "workspace_id"], ["workspaces.org_id", "workspaces.id"]),
        ForeignKeyConstraint(["org_id", "document_id"], ["documents.org_id", "documents.id"]),
        ForeignKeyConstraint(["org_id", "blob_id"], ["blobs.org_id", "blobs.id"]),
    )

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    workspace_id: Mapped[UUID]
    document_id: Mapped[UUID | None]  # None: ended
    deleted_document_id: Mapped[UUID | None]  # of a version that ended with its document
    number: Mapped[int] = mapped_column(Integer())
    blob_id: Mapped[UUID | None]  # None: ended
    state: Mapped[State] = mapped_column(_OneOf(State))
    step: Mapped[Step] = mapped_column(_OneOf(Step))  # the next to do; the last one of a version that is ready
    reason: Mapped[Reason | None] = mapped_column(_OneOf(Reason))  # of a failed one
    due_time: Mapped[datetime]  # when the step is done or retried; orders the versions of an organization
    claim_id: Mapped[UUID | None]  # who works on the step; anybody else must store nothing
    media_type: Mapped[str]  # until the file is parsed: its kind of text if that is known, see media_types
    text_id: Mapped[UUID | None]  # of the attempt that read the text
    language: Mapped[str]  # of the text, as search names it
    text_length: Mapped[int]  # in code points
    page_count: Mapped[int] = mapped_column(Integer())
    unread_pages: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    chunk_count: Mapped[int] = mapped_column(Integer())
    create_time: Mapped[datetime]
    end_time: Mapped[datetime | None]

    @property
    def live_document_id(self) -> UUID:
        """Return the document of a version that has not ended."""
        assert self.document_id
        return self.document_id


class DocumentStep(Base):
    """How far a step of a version has come. There is no row before it begins."""

    __tablename__ = "document_steps"
    __table_args__ = (
        ForeignKeyConstraint(
            ["org_id", "version_id"], ["document_versions.org_id", "document_versions.id"], ondelete="CASCADE"
        ),
    )

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    version_id: Mapped[UUID] = mapped_column(primary_key=True)
    step: Mapped[Step] = mapped_column(_OneOf(Step), primary_key=True)
    attempt_count: Mapped[int] = mapped_column(Integer())
    start_time: Mapped[datetime]
    end_time: Mapped[datetime | None]
    reason: Mapped[Reason | None] = mapped_column(_OneOf(Reason))  # of the last attempt, if it failed
    fraction: Mapped[float] = mapped_column(REAL())


class Collection(Base):
    __tablename__ = "collections"
    __table_args__ = (ForeignKeyConstraint(["org_id", "workspace_id"], ["workspaces.org_id", "workspaces.id"]),)

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True, unique=True)
    workspace_id: Mapped[UUID]
    name: Mapped[str]
    description: Mapped[str]
    version: Mapped[int]
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]


class CollectionDocument(Base):
    """A document in a collection."""

    __tablename__ = "collection_documents"
    __table_args__ = (
        ForeignKeyConstraint(["org_id", "collection_id"], ["collections.org_id", "collections.id"], ondelete="CASCADE"),
        ForeignKeyConstraint(["org_id", "document_id"], ["documents.org_id", "documents.id"], ondelete="CASCADE"),
    )

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    collection_id: Mapped[UUID] = mapped_column(primary_key=True)
    document_id: Mapped[UUID] = mapped_column(primary_key=True)


class Upload(Base):
    """The upload of a document: what was declared, and how it ended."""

    __tablename__ = "uploads"
    __table_args__ = (
        ForeignKeyConstraint(["org_id", "workspace_id"], ["workspaces.org_id", "workspaces.id"]),
        ForeignKeyConstraint(["org_id", "document_id"], ["documents.org_id", "documents.id"], ondelete="CASCADE"),
    )

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True, unique=True)
    workspace_id: Mapped[UUID]
    user_id: Mapped[UUID]  # the only person who sees it
    name: Mapped[str]
    size_bytes: Mapped[int]
    sha256: Mapped[bytes] = mapped_column(LargeBinary)
    collection_ids: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid))
    stream_id: Mapped[UUID | None]  # the stream that writes
    replaces_id: Mapped[UUID | None]  # the document of which it is a new version
    document_id: Mapped[UUID | None]  # once it is finished
    create_time: Mapped[datetime]
    expire_time: Mapped[datetime]
    end_time: Mapped[datetime | None]  # when it was given up
