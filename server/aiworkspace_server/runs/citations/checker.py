"""Checks what a model cites before anybody sees it: the source, its words, and the right to read it."""

import asyncio
from collections.abc import Collection, Sequence
from typing import NamedTuple

import structlog

from ...conversations.models import Citation
from ...kit.postgres import Database
from ..models import StoredSource
from ..streams.local import LocalRun
from .markers import Marker
from .quotes import MOST_QUOTED, Span, choose_quote, find_quote
from .retrieval import may_read
from .sources import DocumentAccess, Reader

MOST_CITATIONS = 100  # of an answer

log = structlog.get_logger("runs")


class _Cited(NamedTuple):
    source: StoredSource
    start: int
    end: int
    quote: Span  # in the text of the source


class CitationChecker:
    """Adds the citations of one run that are true to its answer, in their order, and counts the others.

    What needs the database is checked beside the stream, which does not wait. A server that is killed meanwhile loses
    the citations that it was checking; the text has no markers of them.
    """

    def __init__(self, db: Database, documents: DocumentAccess, reader: Reader, run: LocalRun) -> None:
        self.dropped_count = 0
        self._db = db
        self._documents = documents
        self._reader = reader
        self._run = run
        self._waiting: list[_Cited] = []
        self._checking: asyncio.Task[None] | None = None

    def add(self, marker: Marker, sources: Collection[StoredSource]) -> None:
        """Check a marker whose words were sent. `sources`: those that the model was given."""
        known = {source["number"]: source for source in sources}
        statement = self._run.text[marker.start : marker.end]
        for number in marker.numbers:
            source = known.get(number) if self._has_room else None
            quote = _quote(source, marker.quote, statement) if source else None
            if source and quote:
                self._waiting.append(_Cited(source, marker.start, marker.end, quote))
            else:
                self.dropped_count += 1
        if self._waiting and (self._checking is None or self._checking.done()):
            self._checking = asyncio.create_task(self._check())

    @property
    def _has_room(self) -> bool:
        return len(self._run.citations) + len(self._waiting) < MOST_CITATIONS

    async def finish(self) -> None:
        """Wait until everything is checked."""
        while self._checking and not self._checking.done():
            await asyncio.wait({self._checking})

    def close(self) -> None:
        """Give up what is not checked yet."""
        if self._checking:
            self._checking.cancel()

    async def _check(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            readable = await self._list_readable(waiting)
            for cited in waiting:
                if cited.source["number"] in readable and len(self._run.citations) < MOST_CITATIONS:
                    self._run.cite(_citation(cited))
                else:
                    self.dropped_count += 1

    async def _list_readable(self, waiting: Sequence[_Cited]) -> set[int]:
        """Return the numbers of the sources that the reader may still read; none of them if that cannot be told."""
        sources = {cited.source["number"]: cited.source for cited in waiting}
        try:
            async with asyncio.timeout(self._documents.seconds):
                if not await may_read(self._db, self._reader):
                    return set()
                return {number for number, source in sources.items() if await self._is_there(source)}
        except Exception as error:
            log.warning("citations_not_checked", run_id=str(self._run.run_id), error=type(error).__name__)
            return set()

    async def _is_there(self, source: StoredSource) -> bool:
        return await self._documents.still_readable(self._reader, source["document_id"], source["version_id"])


def _quote(source: StoredSource, given: str, statement: str) -> Span | None:
    """Return the span of the words to quote. Of a given quote that is too long, the best sentences."""
    text = source["text"]
    found = find_quote(text, given) if given else (0, len(text))
    if found is None or (given and found[1] - found[0] <= MOST_QUOTED):
        return found
    start, end = found
    first, last = choose_quote(text[start:end], statement, source["place"].get("headings", ()))
    return start + first, start + last


def _citation(cited: _Cited) -> Citation:
    source, (start, end) = cited.source, cited.quote
    return Citation(
        start=cited.start,
        end=cited.end,
        document_id=source["document_id"],
        version_id=source["version_id"],
        version=source["version"],
        document_name=source["document_name"],
        place=source["place"],
        quote=source["text"][start:end],
        quote_start=source["start"] + start,
        quote_end=source["start"] + end,
    )
