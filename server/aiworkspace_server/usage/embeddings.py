"""Calls to embedding models in the ledger: reserved before, settled with what the model counted."""

from dataclasses import dataclass

from ..kit.postgres import WriteSession
from ..llm.base import TokenUsage
from ..llm.prices import embedding_price
from .ledger import Ledger, Spender


@dataclass(frozen=True, slots=True)
class EmbeddingAttempt:
    """A reserved call to an embedding model."""

    ledger: Ledger
    spender: Spender
    number: int
    model: str

    async def settle(self, tx: WriteSession, token_count: int) -> None:
        """End the reservation with the tokens that the model counted."""
        usage = TokenUsage(token_count, 0, 0, 0, 0)
        cost = embedding_price(self.model, token_count, self.spender.run_time)
        await self.ledger.settle(tx, self.spender.org_id, self.spender.run_id, self.number, usage, cost)

    async def release(self, tx: WriteSession) -> None:
        """End the reservation of a call that cost nothing."""
        await self.ledger.release(tx, self.spender.org_id, self.spender.run_id, self.number)


async def reserve_embedding(
    tx: WriteSession, ledger: Ledger, spender: Spender, number: int, model: str, most_tokens: int
) -> EmbeddingAttempt:
    """Reserve a call that embeds at most so many tokens. Raises BudgetExhausted."""
    amount = embedding_price(model, most_tokens, spender.run_time)
    await ledger.reserve(tx, spender, number, model, amount, own_key=False)
    return EmbeddingAttempt(ledger, spender, number, model)
