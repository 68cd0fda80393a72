"""Budgets, and runs whose money alone is there: reserved and settled without asking anybody anything."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import text

from aiworkspace.v1 import budget_pb2 as pb
from aiworkspace.v1 import common_pb2
from aiworkspace_server.app import App
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.kit.postgres import WriteSession
from aiworkspace_server.kit.timestamps import now
from aiworkspace_server.llm.base import TokenUsage
from aiworkspace_server.llm.prices import Price
from aiworkspace_server.usage.ledger import Spender, count_together
from tests.support.people import Person, Place

ORG, WORKSPACE, MEMBER, API_KEY = (
    pb.BUDGET_SCOPE_ORG,
    pb.BUDGET_SCOPE_WORKSPACE,
    pb.BUDGET_SCOPE_MEMBER,
    pb.BUDGET_SCOPE_API_KEY,
)
DAY, MONTH = pb.BUDGET_WINDOW_DAY, pb.BUDGET_WINDOW_MONTH
EXHAUSTED = "RESOURCE_EXHAUSTED BUDGET_EXHAUSTED"
MODEL = "echo/echo"
USAGE = TokenUsage(10, 0, 0, 5, 0)


def usd(nanos: int) -> common_pb2.Money:
    return common_pb2.Money(currency_code="USD", nanos=nanos)


async def make_budget(person: Person, org_id: str, nanos: int, **fields: Any) -> pb.Budget:
    """A hard one for the organization's day, unless the fields say otherwise."""
    wanted = {"scope": ORG, "window": DAY, "hard": True, **fields}
    request = pb.CreateBudgetRequest(org_id=org_id, limit=usd(nanos), **wanted)
    budget: pb.Budget = (await person.budgets.CreateBudget(request)).budget
    return budget


async def change_limit(person: Person, budget: pb.Budget, nanos: int) -> None:
    """Change the limit, whatever was changed since the budget was read."""
    changed = pb.Budget(org_id=budget.org_id, budget_id=budget.budget_id, limit=usd(nanos))
    await person.budgets.UpdateBudget(pb.UpdateBudgetRequest(budget=changed, update_mask=FieldMask(paths=["limit"])))


async def get_budget(person: Person, budget: pb.Budget) -> pb.Budget:
    request = pb.GetBudgetRequest(org_id=budget.org_id, budget_id=budget.budget_id)
    found: pb.Budget = (await person.budgets.GetBudget(request)).budget
    return found


async def counted(person: Person, budget: pb.Budget) -> tuple[int, int]:
    """What is settled and reserved of a budget now."""
    status = (await get_budget(person, budget)).status
    return status.settled.nanos, status.reserved.nanos


def spender(place: Place, key_id: UUID | None = None, user_id: str = "", run_time: datetime | None = None) -> Spender:
    """Of a new run."""
    return Spender(
        UUID(place.org_id),
        UUID(place.workspace_id),
        new_id(),
        new_id(),
        run_time or now(),
        UUID(user_id or place.owner.user_id),
        key_id,
        None,
    )


_CLAIM = text("""
  INSERT INTO run_claims (org_id, run_id, workspace_id, conversation_id, user_id, key_id, request_id, content_hash,
                          state, server_id, create_time)
  VALUES (:org_id, :run_id, :workspace_id, :conversation_id, :user_id, :key_id, :request_id, '', 'open', :server_id,
          :run_time)
""")


async def open_claim(tx: WriteSession, who: Spender, server_id: UUID) -> None:
    """Claim a conversation for a run, holding the ledger as whoever starts a run does."""
    await count_together(tx, who.org_id)
    await tx.execute(_CLAIM, asdict(who) | {"server_id": server_id})


async def reserve(app: App, who: Spender, nanos: int, attempt: int = 1, model: str = MODEL, **fields: Any) -> None:
    """As a run does before it asks a provider."""
    own_key = bool(fields.get("own_key"))
    async with app.db.write(who.org_id) as tx:
        if attempt == 1:
            await open_claim(tx, who, app.engine.deps.server_id)  # nobody takes over what is the server's
        await app.ledger.reserve(tx, who, attempt, model, Price(nanos, "test"), own_key=own_key)


async def settle(app: App, who: Spender, nanos: int, attempt: int = 1, usage: TokenUsage = USAGE) -> bool:
    async with app.db.write(who.org_id) as tx:
        return await app.ledger.settle(tx, who.org_id, who.run_id, attempt, usage, Price(nanos, "test"))


async def release(app: App, who: Spender, attempt: int = 1) -> bool:
    async with app.db.write(who.org_id) as tx:
        return await app.ledger.release(tx, who.org_id, who.run_id, attempt)


async def spend(app: App, who: Spender, nanos: int, **fields: Any) -> None:
    """Reserves and settles."""
    await reserve(app, who, nanos, **fields)
    assert await settle(app, who, nanos)


def tokens(**counts: int) -> dict[str, int]:
    return dict.fromkeys(TOKEN_NAMES, 0) | counts


TOKEN_NAMES: Sequence[str] = [field.name for field in common_pb2.TokenUsage.DESCRIPTOR.fields]
