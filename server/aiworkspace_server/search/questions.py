"""Embeds questions, for those who ask them: what a provider charges is in the ledger."""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import structlog

from ..embedding.base import Embedded, Embedder, EmbeddingRefused, EmbeddingUnavailable
from ..kit.ids import new_id
from ..kit.postgres import Database
from ..kit.tasks import Tasks
from ..kit.timestamps import now
from ..llm.prices import embedding_price
from ..usage.embeddings import reserve_embedding
from ..usage.ledger import BudgetExhausted, Ledger, Spender, count_together
from .generations import Generation, active_generation
from .index import halfvec
from .models import LeftOut

_SPECIAL_TOKENS = 8  # that a model may add to a text
_MILLION = 1_000_000

log = structlog.get_logger("search")


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, in which workspace, and with which API key if any."""

    org_id: UUID
    workspace_id: UUID
    user_id: UUID
    key_id: UUID | None


class Asked(NamedTuple):
    """A question's vector in the generation that the organization searches in, unless it could not be embedded."""

    generation: Generation | None
    left_out: frozenset[LeftOut] = frozenset()
    vector: str = ""
    model: str = ""
    token_count: int = 0


class QuestionEmbedder:
    def __init__(self, db: Database, embedders: Mapping[str, Embedder], ledger: Ledger, tasks: Tasks) -> None:
        """`embedders` by their model: until new vectors are complete, questions are embedded as the old ones were."""
        self._db = db
        self._embedders = embedders
        self._ledger = ledger
        self._tasks = tasks

    async def embed(self, asker: Asker, question: str) -> Asked:
        """Return the question's vector, or why there is none. Never fails for want of a model or of money.

        What is paid for goes on if the caller is cancelled: its reservation would stay open.
        """
        async with self._db.read(asker.org_id) as tx:
            generation = await active_generation(tx, asker.org_id)
        embedder = self._embedders.get(generation.model) if generation else None
        if generation is None or embedder is None or embedder.dimension != generation.dimension:
            return Asked(None, frozenset({LeftOut.NO_EMBEDDER}))
        if embedding_price(embedder.model, _MILLION).nanos == 0:
            return await _asked(generation, embedder.embed([question], query=True))
        paying = _asked(generation, self._pay(asker, embedder, question))
        return await asyncio.shield(self._tasks.spawn(paying))

    async def _pay(self, asker: Asker, embedder: Embedder, question: str) -> Embedded:
        question_id, most = new_id(), len(question.encode()) + _SPECIAL_TOKENS  # a token has at least a byte
        # The question is a run of its own, in no conversation.
        spender = Spender(
            asker.org_id, asker.workspace_id, question_id, question_id, now(), asker.user_id, asker.key_id, None
        )
        async with self._db.write(asker.org_id) as tx:
            await count_together(tx, asker.org_id)
            attempt = await reserve_embedding(tx, self._ledger, spender, 1, embedder.model, most)
        try:
            embedded = await embedder.embed([question], query=True)
        except BaseException as error:
            async with self._db.write(asker.org_id) as tx:
                if isinstance(error, EmbeddingUnavailable | EmbeddingRefused):
                    await attempt.release(tx)
                else:
                    await attempt.settle(tx, most)  # it may have been charged
            raise
        async with self._db.write(asker.org_id) as tx:
            await attempt.settle(tx, embedded.token_count)
        return embedded


async def _asked(generation: Generation, embedding: Awaitable[Embedded]) -> Asked:
    try:
        embedded = await embedding
    except (EmbeddingUnavailable, EmbeddingRefused, BudgetExhausted) as error:
        log.warning("question_not_embedded", model=generation.model, error=str(error))
        return Asked(None, frozenset({LeftOut.EMBEDDING_UNAVAILABLE}))
    vector = halfvec(embedded.vectors[0])
    return Asked(generation, frozenset(), vector, generation.model, embedded.token_count)
