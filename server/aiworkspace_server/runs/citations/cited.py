"""The sources of one run, and what its answer cites of them."""

from collections.abc import Sequence

from ...conversations.models import Citation, Omission
from ...conversations.proto import OMISSIONS
from ...kit.stores import retry_until_available
from ...llm.base import Cited, Delta, SourceText, Turn
from ..attempts.attempt import Attempt
from ..deps import RunDeps
from ..models import ClaimLost, RunState, StoredSource
from ..store import RunStore
from ..streams.local import LocalRun
from .checker import CitationChecker
from .markers import Marker, MarkerFilter
from .packing import fitting
from .retrieval import find_sources
from .sources import Reader, source_text


class CitedAnswer:
    """Gives the attempts of a run its sources, and takes the markers out of what they say.

    The sources are found once and stored before a provider is called: all attempts, also those of a server that takes
    the run over, have the same ones under the same numbers.
    """

    def __init__(self, deps: RunDeps, run: LocalRun, reader: Reader) -> None:
        self._deps = deps
        self._run = run
        self._reader = reader
        self._checker = CitationChecker(deps.db, deps.documents, reader, run)
        self._speaker: Attempt | None = None  # whose output the filter has
        self._given: list[StoredSource] = []  # to the speaker
        self._filter = MarkerFilter()
        self._held_tokens = 0

    @property
    def sources(self) -> Sequence[StoredSource]:
        return self._run.document.get("sources", ())

    # Sources

    async def find(self, turns: Sequence[Turn]) -> None:
        """Find the sources for an answer to the last of the turns, unless they are known."""
        run = self._run.document
        retrieval = run.get("retrieval")
        if retrieval and "sources" not in run:
            sources, omissions = await find_sources(self._deps.db, self._deps.documents, self._reader, retrieval, turns)
            run["sources"], run["omissions"] = sources, list(omissions)

    async def store(self) -> None:
        """Store the sources, with the attempts so far, and report them. Raise ClaimLost if another server has the run.

        Nothing happens if they were not found because the run is to stop.
        """
        run = self._run.document
        if "sources" not in run or self._run.reported_sources:
            return
        store = RunStore(self._deps.mongo, self._run.org_id)
        if not await retry_until_available(lambda: store.save_sources(run)):
            raise ClaimLost
        self._run.reported_sources = True
        omissions = [OMISSIONS[omission] for omission in run["omissions"]]
        self._run.emit(sources_retrieved={"source_count": len(run["sources"]), "omissions": omissions})

    def give(self, most_bytes: int) -> list[SourceText]:
        """Return the sources for a request in which they may take so much."""
        given = fitting(self.sources, most_bytes)
        omissions = self._run.document.get("omissions", [])
        if len(given) < len(self.sources) and Omission.NO_ROOM not in omissions:
            omissions.append(Omission.NO_ROOM)
        return [source_text(source) for source in given]

    # The answer

    @property
    def text_with_markers(self) -> str:
        """The answer so far as the model wrote it: a model that continues it goes on citing in the same way."""
        text = self._run.text
        for citation in reversed(self._run.citations):
            if number := self._number_of(citation):
                end = citation["end"]
                text = f"{text[:end]} [{number}]{text[end:]}"
        return text

    def _number_of(self, citation: Citation) -> int:
        for source in self.sources:
            inside = source["start"] <= citation["quote_start"] and citation["quote_end"] <= source["end"]
            if inside and source["version_id"] == citation["version_id"]:
                return source["number"]
        return 0

    def say(self, attempt: Attempt, delta: Delta) -> None:
        """Send text of an attempt without its markers, which are then checked."""
        if attempt is not self._speaker:
            self._speaker = attempt
            numbers = {source.number for source in attempt.request.sources}
            self._given = [source for source in self.sources if source["number"] in numbers]
            self._filter = MarkerFilter(self._run.text)
        self._held_tokens += delta.tokens
        self._send(attempt, *self._filter.feed(delta.text))

    def cite(self, attempt: Attempt, cited: Cited) -> None:
        """Check a citation that the provider sent beside the text."""
        if attempt is self._speaker:
            self._checker.add(Marker((cited.number,), cited.quote, *self._filter.supported()), self._given)

    def end_attempt(self, attempt: Attempt) -> None:
        """Send what is held back of an attempt that has ended. If it broke off, that is half a marker, and dropped."""
        if attempt is self._speaker:
            self._speaker = None
            if attempt.state == RunState.COMPLETED:
                self._send(attempt, *self._filter.end())

    def _send(self, attempt: Attempt, text: str, markers: Sequence[Marker]) -> None:
        if text:
            tokens, self._held_tokens = self._held_tokens, 0
            self._run.say(attempt.target.model, Delta("text", text, tokens))
        for marker in markers:
            self._checker.add(marker, self._given)

    async def finish(self) -> None:
        """Wait until all citations are checked."""
        await self._checker.finish()
        if dropped := self._checker.dropped_count:
            self._run.document["dropped_citation_count"] = dropped

    def close(self) -> None:
        self._checker.close()
