"""What is indexed and what is found. Offsets are code points of the version's canonical text, [start, end)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

Place = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class IndexedVersion:
    """A version of a document. `language` is what `detect_language` returns for its text."""

    org_id: UUID
    workspace_id: UUID
    document_id: UUID
    version_id: UUID
    media_type: str
    create_time: datetime
    language: str


@dataclass(frozen=True, slots=True)
class IndexedChunk:
    """`heading` is put before the text for indexing. Its length and the text's are at most 4,000 characters each."""

    number: int
    start: int
    end: int
    text: str
    heading: str
    place: Place
    token_count: int


@dataclass(frozen=True, slots=True)
class Filters:
    """None lets everything pass; an empty collection lets nothing pass. Times are of versions, [start, end)."""

    collection_ids: Collection[UUID] | None = None
    document_ids: Collection[UUID] | None = None
    media_types: Collection[str] | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None


class LeftOut(StrEnum):
    """What a result is without, though it could have been there."""

    NO_EMBEDDER = "no_embedder"  # nothing is configured that embeds questions for the organization's vectors
    EMBEDDING_UNAVAILABLE = "embedding_unavailable"  # the question could not be embedded now
    NOT_EMBEDDED_YET = "not_embedded_yet"  # some documents are found by their words only
    VECTOR_INDEX_BUILDING = "vector_index_building"  # the vectors were compared one by one, which is slow
    RERANKER_UNAVAILABLE = "reranker_unavailable"  # the order is that before reranking


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found. Ranks count from 1; None means that this kind of search did not find it."""

    document_id: UUID
    version_id: UUID
    number: int
    start: int
    end: int
    text: str
    heading: str
    place: Place
    token_count: int
    score: float
    text_rank: int | None
    vector_rank: int | None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits, best first, what they are without, and what embedding the question cost."""

    hits: Sequence[Hit]
    left_out: frozenset[LeftOut]
    embedding_model: str  # empty if the question was not embedded
    question_tokens: int


@dataclass(frozen=True, slots=True)
class SimilarDocument:
    document_id: UUID
    version_id: UUID
    score: float


@dataclass(frozen=True, slots=True)
class SimilarResult:
    """The documents, best first, and what they are without."""

    documents: Sequence[SimilarDocument]
    left_out: frozenset[LeftOut]
