"""Tables of documents, their bytes, collections and uploads."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, ForeignKey, ForeignKeyConstraint, LargeBinary, UniqueConstraint, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


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
    __table_args__ = (
        ForeignKeyConstraint(["org_id", "workspace_id"], ["workspaces.org_id", "workspaces.id"]),
        ForeignKeyConstraint(["org_id", "blob_id"], ["blobs.org_id", "blobs.id"]),
    )

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True, unique=True)
    workspace_id: Mapped[UUID]
    user_id: Mapped[UUID]  # who uploaded it
    blob_id: Mapped[UUID]
    name: Mapped[str]
    version: Mapped[int]
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]


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
    document_id: Mapped[UUID | None]  # once it is finished
    create_time: Mapped[datetime]
    expire_time: Mapped[datetime]
    end_time: Mapped[datetime | None]  # when it was given up
