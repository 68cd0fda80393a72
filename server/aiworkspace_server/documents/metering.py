"""Embedding tokens in the ledger: reserved before the model is called, settled with what it counted.

The run of such entries is the version, its conversation the document, and each call to the model is an attempt.
"""

from uuid import UUID

from ..auth.authority import OrgSuspended
from ..kit.postgres import Database, WriteSession
from ..kit.timestamps import now
from ..orgs.store import is_suspended
from ..usage.embeddings import EmbeddingAttempt, reserve_embedding
from ..usage.ledger import Ledger, Spender, count_together, last_attempt
from .models import DocumentVersion


class Metering:
    def __init__(self, db: Database, ledger: Ledger) -> None:
        self._db = db
        self._ledger = ledger

    async def reserve(self, version: DocumentVersion, user_id: UUID, model: str, most_tokens: int) -> EmbeddingAttempt:
        """Reserve a call that embeds at most so many tokens of a version. Raises BudgetExhausted and OrgSuspended."""
        spender = Spender(
            org_id=version.org_id,
            workspace_id=version.workspace_id,
            conversation_id=version.live_document_id,
            run_id=version.id,
            run_time=now(),
            user_id=user_id,
            key_id=None,
            request_id=None,
        )
        async with self._db.write(version.org_id) as tx:
            await count_together(tx, version.org_id)
            if await is_suspended(tx, version.org_id):  # after the lock, which a suspension waits for
                raise OrgSuspended
            await self.settle_left(tx, version.org_id, version.id)
            number = await last_attempt(tx, version.id) + 1
            return await reserve_embedding(tx, self._ledger, spender, number, model, most_tokens)

    async def settle_left(self, tx: WriteSession, org_id: UUID, version_id: UUID) -> None:
        """End what a worker that died had reserved for a version."""
        await self._ledger.settle_left(tx, org_id, version_id)
