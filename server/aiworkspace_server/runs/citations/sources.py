"""What a run knows of documents: passages that were found, who reads them, and the callables that `app` hands in."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from ...conversations.models import Omission
from ...llm.base import SourceText
from ..models import StoredSource


@dataclass(frozen=True, slots=True)
class Reader:
    """Whose run it is, with the API key that started it."""

    org_id: UUID
    workspace_id: UUID
    user_id: UUID
    key_id: UUID | None


@dataclass(frozen=True, slots=True)
class SourceQuery:
    reader: Reader
    collection_ids: Collection[UUID] | None  # None: all documents of the workspace
    text: str
    limit: int  # of passages


@dataclass(frozen=True, slots=True)
class Source:
    """A passage of a document: `text` is the slice [start, end) of the canonical text of the version."""

    document_id: UUID
    version_id: UUID
    version: int
    document_name: str
    place: Mapping[str, Any]  # fields of Place
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The passages that were found, the best first, and why some may be missing."""

    sources: Sequence[Source] = ()
    omissions: frozenset[Omission] = frozenset()


@dataclass(slots=True)
class DocumentAccess:
    """How runs reach documents. Whether the reader may read documents of the workspace at all, the run checks itself.

    `retrieve` searches the documents. `still_readable` tells whether a version of a document can still be read in the
    reader's workspace. Both may fail and may take long: a run waits for them for `seconds` at most.
    """

    retrieve: Callable[[SourceQuery], Awaitable[Retrieved]]
    still_readable: Callable[[Reader, UUID, UUID], Awaitable[bool]]  # document, version
    seconds: float = 5.0


def source_text(source: StoredSource) -> SourceText:
    return SourceText(source["number"], source["document_name"], describe(source["place"]), source["text"])


def describe(place: Mapping[str, Any]) -> str:
    """Return a place for people, "page 3" for example."""
    parts = [" \u203a ".join(place.get("headings", ())), place.get("sheet", "")]
    parts += [f"{name} {place[name]}" for name in ("page", "slide", "chapter", "line") if place.get(name)]
    if first := place.get("first_row"):
        parts.append(f"rows {first}\u2013{place.get('last_row', first)}")
    return ", ".join(part for part in parts if part)
