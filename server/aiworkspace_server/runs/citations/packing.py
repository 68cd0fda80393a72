"""Chooses which of the passages that were found a model is given."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...llm.tokens import bound_citing, bound_source
from ..models import StoredSource
from .sources import Source, source_text

_MOST_HEADINGS, _LONGEST_HEADING = 10, 200  # characters


def number_sources(found: Iterable[Source]) -> list[StoredSource]:
    """Return the passages without repetitions, each with its rank and with the number by which the model cites it.

    Passages of a document stand together and in its order, so that neighbours read on; first the documents with the
    best passages.
    """
    kept: list[Source] = []
    for source in found:
        if source.text.strip() and not any(_contains(other, source) for other in kept):
            kept = _put(kept, source)
    best: dict[object, int] = {}
    for rank, source in enumerate(kept):
        best.setdefault(source.version_id, rank)
    ranked = sorted(enumerate(kept), key=lambda each: (best[each[1].version_id], each[1].start))
    return [_stored(number, rank, source) for number, (rank, source) in enumerate(ranked, 1)]


def fitting(sources: Sequence[StoredSource], most_tokens: int) -> list[StoredSource]:
    """Return the best passages whose upper bound is at most so many tokens, in the order of their numbers."""
    left, kept = most_tokens - bound_citing(), list[StoredSource]()
    for source in sorted(sources, key=lambda source: source["rank"]):
        bound = bound_source(source_text(source))
        if bound <= left:
            left -= bound
            kept.append(source)
    return sorted(kept, key=lambda source: source["number"])


def _put(kept: Sequence[Source], source: Source) -> list[Source]:
    """Return the passages with another one, in place of those that it contains."""
    rank = next((at for at, other in enumerate(kept) if _contains(source, other)), len(kept))
    later = (other for other in kept[rank:] if not _contains(source, other))
    return [*kept[:rank], source, *later]


def _contains(outer: Source, inner: Source) -> bool:
    return outer.version_id == inner.version_id and outer.start <= inner.start and inner.end <= outer.end


def _short(place: Mapping[str, Any]) -> dict[str, Any]:
    """Return a place with the innermost headings, none of them long: it is sent with each citation."""
    found = dict(place)
    if headings := found.get("headings"):
        found["headings"] = [heading[:_LONGEST_HEADING] for heading in headings[-_MOST_HEADINGS:]]
    return found


def _stored(number: int, rank: int, source: Source) -> StoredSource:
    return StoredSource(
        number=number,
        rank=rank,
        document_id=source.document_id,
        version_id=source.version_id,
        version=source.version,
        document_name=source.document_name,
        place=_short(source.place),
        text=source.text,
        start=source.start,
        end=source.end,
    )
