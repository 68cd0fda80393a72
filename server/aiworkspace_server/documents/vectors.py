"""Embeds the chunks of a version, a batch at a time: reserved in the ledger, embedded, then stored and settled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from ..embedding.base import Embedded, Embedder, EmbeddingRefused, EmbeddingUnavailable, with_heading
from ..kit.postgres import Database, WriteSession
from ..search import generations, index
from ..search.models import IndexedChunk
from ..usage.embeddings import EmbeddingAttempt
from ..usage.ledger import BudgetExhausted
from . import versions
from .claims import ClaimLost, StepFailed
from .metering import Metering
from .models import DocumentVersion, Reason

_AT_ONCE = 32  # chunks, after which other organizations have their turn


class _Paid(NamedTuple):
    """What a call to the model returned, and its reservation, which is still open."""

    embedded: Embedded
    attempt: EmbeddingAttempt


@dataclass(frozen=True, slots=True)
class Batch:
    """Vectors of some chunks of a version, none if it has them all. `done`: chunks with vectors once it is stored."""

    version: DocumentVersion
    generation: int
    numbers: Sequence[int]
    done: int
    paid: _Paid | None

    async def store(self, tx: WriteSession) -> None:
        """Store the vectors and settle the attempt. The last batch of the version completes it in its generation."""
        org_id, version_id = self.version.org_id, self.version.id
        if self.paid:
            vectors = self.paid.embedded.vectors
            await index.put_vectors(tx, org_id, version_id, self.generation, self.numbers, vectors)
        await self.settle(tx)
        if self.done == self.version.chunk_count:
            await index.mark_embedded(tx, org_id, version_id, self.generation)

    async def settle(self, tx: WriteSession) -> None:
        """Settle the attempt, also if nothing is stored of it."""
        if self.paid:
            await self.paid.attempt.settle(tx, self.paid.embedded.token_count)


class Vectors:
    """Makes vectors with the server's embedding model."""

    def __init__(self, db: Database, embedder: Embedder, metering: Metering) -> None:
        self._db = db
        self._embedder = embedder
        self._metering = metering

    async def generation(self, tx: WriteSession) -> int:
        """Return the generation of the server's model."""
        return await generations.find_generation(tx, self._embedder.model, self._embedder.dimension)

    async def embed_next(self, version: DocumentVersion) -> Batch:
        """Embed chunks of a version without vectors. Raises StepFailed, or ClaimLost if its document is deleted."""
        org_id = version.org_id
        async with self._db.write(org_id) as tx:
            generation = await self.generation(tx)
            await generations.build_next(tx, org_id, generation)
            chunks = await index.chunks_without_vectors(tx, org_id, version.id, generation, _AT_ONCE)
            done = len(chunks) + await index.count_vectors(tx, org_id, version.id, generation)
            user_id = await versions.find_user(tx, version.live_document_id)
        if user_id is None:
            raise ClaimLost
        paid = await self._pay(version, user_id, chunks) if chunks else None
        return Batch(version, generation, [chunk.number for chunk in chunks], done, paid)

    async def _pay(self, version: DocumentVersion, user_id: UUID, chunks: Sequence[IndexedChunk]) -> _Paid:
        most = sum(chunk.token_count for chunk in chunks)
        try:
            attempt = await self._metering.reserve(version, user_id, self._embedder.model, most)
        except BudgetExhausted as exhausted:
            raise StepFailed(Reason.BUDGET_EXHAUSTED, exhausted.message, retried=False) from None
        texts = [with_heading(chunk.heading, chunk.text) for chunk in chunks]
        return _Paid(await self._embed(texts, attempt), attempt)

    async def _embed(self, texts: list[str], attempt: EmbeddingAttempt) -> Embedded:
        try:
            return await self._embedder.embed(texts, query=False)
        except (EmbeddingUnavailable, EmbeddingRefused) as failed:
            async with self._db.write(attempt.spender.org_id) as tx:
                await attempt.release(tx)
            if isinstance(failed, EmbeddingUnavailable):
                raise StepFailed(Reason.EMBEDDING_UNAVAILABLE, str(failed), retried=True) from None
            raise StepFailed(Reason.EMBEDDING_REFUSED, str(failed), retried=False) from None
