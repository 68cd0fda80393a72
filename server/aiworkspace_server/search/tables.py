"""Tables of what search reads. Every query on them is SQL, in the modules beside this one."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import ARRAY, BigInteger, ForeignKey, ForeignKeyConstraint, Integer, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base

_WORKSPACE = (["org_id", "workspace_id"], ["workspaces.org_id", "workspaces.id"])


class SearchVersion(Base):
    """A version that answers searches. `embedded`: the active generation has its vectors."""

    __tablename__ = "search_versions"
    __table_args__ = (
        UniqueConstraint("org_id", "document_id"),
        UniqueConstraint("org_id", "workspace_id", "first_chunk"),
        ForeignKeyConstraint(*_WORKSPACE),
        ForeignKeyConstraint(["org_id", "document_id"], ["documents.org_id", "documents.id"]),
    )

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    version_id: Mapped[UUID] = mapped_column(primary_key=True)
    workspace_id: Mapped[UUID]
    document_id: Mapped[UUID]
    media_type: Mapped[str]
    language: Mapped[str]
    create_time: Mapped[datetime]
    first_chunk: Mapped[int]
    chunk_count: Mapped[int] = mapped_column(Integer)
    lexeme_count: Mapped[int]
    embedded: Mapped[bool]


class HiddenVersion(Base):
    """A version that has postings and does not answer searches: it is being indexed, or has to be erased."""

    __tablename__ = "hidden_versions"
    __table_args__ = (
        UniqueConstraint("org_id", "workspace_id", "first_chunk"),
        ForeignKeyConstraint(*_WORKSPACE),
    )

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    version_id: Mapped[UUID] = mapped_column(primary_key=True)
    workspace_id: Mapped[UUID]
    first_chunk: Mapped[int]
    chunk_count: Mapped[int] = mapped_column(Integer)
    posted_count: Mapped[int] = mapped_column(Integer)  # all chunks with smaller numbers have their postings


class SearchStats(Base):
    """Sums over the versions that answer in a workspace, for each language."""

    __tablename__ = "search_stats"
    __table_args__ = (ForeignKeyConstraint(*_WORKSPACE),)

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    workspace_id: Mapped[UUID] = mapped_column(primary_key=True)
    language: Mapped[str] = mapped_column(primary_key=True)
    version_count: Mapped[int]
    chunk_count: Mapped[int]
    lexeme_count: Mapped[int]


class Chunk(Base):
    """A piece of a version's canonical text, [start, end) in code points, with what the full-text index has of it."""

    __tablename__ = "chunks"

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    version_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    start_offset: Mapped[int] = mapped_column(Integer)
    end_offset: Mapped[int] = mapped_column(Integer)
    text: Mapped[str]
    heading: Mapped[str]
    place: Mapped[dict[str, Any]] = mapped_column(JSONB)
    token_count: Mapped[int] = mapped_column(Integer)
    lexeme_count: Mapped[int] = mapped_column(Integer)
    lexemes: Mapped[str] = mapped_column(TSVECTOR)


class Posting(Base):
    """Occurrences of a lexeme in chunks of a workspace: see the migration for the integers."""

    __tablename__ = "postings"
    __table_args__ = (ForeignKeyConstraint(*_WORKSPACE),)

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    workspace_id: Mapped[UUID] = mapped_column(primary_key=True)
    lexeme: Mapped[str] = mapped_column(primary_key=True)
    first_chunk: Mapped[int] = mapped_column(primary_key=True)
    last_chunk: Mapped[int]
    occurrences: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))


class EmbeddingGeneration(Base):
    """A model and its dimension, for all organizations."""

    __tablename__ = "embedding_generations"
    __table_args__ = (UniqueConstraint("model", "dimension"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    model: Mapped[str]
    dimension: Mapped[int] = mapped_column(Integer)


class SearchGeneration(Base):
    """The generation that an organization searches in, and the one that is being built."""

    __tablename__ = "search_generations"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    active: Mapped[int | None] = mapped_column(ForeignKey("embedding_generations.id"), type_=Integer)
    next: Mapped[int | None] = mapped_column(ForeignKey("embedding_generations.id"), type_=Integer)
    has_old: Mapped[bool]  # vectors of other generations may be left


class EmbeddedVersion(Base):
    """A version that has all its vectors in a generation, and their mean."""

    __tablename__ = "embedded_versions"

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(Integer, ForeignKey("embedding_generations.id"), primary_key=True)
    version_id: Mapped[UUID] = mapped_column(primary_key=True)
    mean: Mapped[Any] = mapped_column(HALFVEC)


class ChunkVector(Base):
    """The vector of a chunk in a generation, of length one."""

    __tablename__ = "chunk_vectors"

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(Integer, primary_key=True)
    version_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    embedding: Mapped[Any] = mapped_column(HALFVEC)
