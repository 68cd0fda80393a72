"""Rules of budgets. Who changes one keeps all others from counting meanwhile, so that no run is missed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from ..kit.errors import InvalidArgument, NotFound, etag_mismatch
from ..kit.ids import new_id
from ..kit.postgres import ReadSession, WriteSession
from ..kit.timestamps import now
from ..llm.prices import Price
from ..orgs.store import find_member
from ..service_accounts.store import find_key
from ..usage.ledger import count_alone
from ..usage.rebuild import count_budget
from ..workspaces.store import find_workspace
from . import store
from .models import Budget, BudgetCount

# How to find whose budgets of a scope may be, and the field that names them.
_SUBJECTS = {
    "workspace": ("workspace_id", find_workspace),
    "member": ("user_id", find_member),
    "api_key": ("api_key_id", find_key),
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a budget says."""

    scope: str
    period: str
    limit_nanos: int
    hard: bool
    alert_percents: list[int]


async def create_budget(tx: WriteSession, org_id: UUID, terms: Terms, named: Mapping[str, UUID]) -> Budget:
    """`named` has the ids that were given, by their fields."""
    await count_alone(tx, org_id)
    subject_id = await _find_subject(tx, terms.scope, named)
    time = now()
    budget = Budget(
        org_id=org_id,
        id=new_id(),
        scope=terms.scope,
        subject_id=subject_id,
        period=terms.period,
        limit_nanos=terms.limit_nanos,
        hard=terms.hard,
        alert_percents=terms.alert_percents,
        version=1,
        create_time=time,
        update_time=time,
    )
    tx.add(budget)
    await tx.flush()  # before it is counted
    await count_budget(tx, budget.id)
    return budget


async def _find_subject(tx: ReadSession, scope: str, named: Mapping[str, UUID]) -> UUID | None:
    """Whose the budget is; None for all. Raises NotFound for what the organization does not have."""
    for field, find in _SUBJECTS.values():
        if field in named and await find(tx, named[field]) is None:
            raise NotFound(field)
    field, _ = _SUBJECTS.get(scope, ("", None))
    if wrong := named.keys() - {field}:
        raise InvalidArgument(dict.fromkeys(wrong, "does not go with this scope"))
    return named.get(field)


async def get_budget(tx: ReadSession, budget_id: UUID) -> tuple[Budget, BudgetCount | None]:
    """With what is spent of it in its present window."""
    found = await store.find_budget(tx, budget_id)
    if found is None:
        raise NotFound("budget_id")
    return found[0], found[1]


async def update_budget(tx: WriteSession, org_id: UUID, budget_id: UUID, etag: str, values: dict[str, Any]) -> Budget:
    await count_alone(tx, org_id)
    budget = await store.lock_budget(tx, budget_id)
    if budget is None:
        raise NotFound("budget.budget_id")
    if etag and etag != str(budget.version):
        raise etag_mismatch("budget.etag")
    for name, value in values.items():
        setattr(budget, name, value)
    budget.version += 1
    budget.update_time = now()
    await store.forget_alerts(tx, budget)
    return budget


async def delete_budget(tx: WriteSession, org_id: UUID, budget_id: UUID) -> None:
    await count_alone(tx, org_id)
    budget = await store.lock_budget(tx, budget_id)
    if budget is None:
        raise NotFound("budget_id")
    await tx.delete(budget)


def reached(percents: Collection[int], limit_nanos: int, settled_nanos: int) -> int:
    """The greatest of the thresholds that what was spent has come to; 0 when it is none."""
    return max((each for each in percents if settled_nanos * 100 >= limit_nanos * each), default=0)


def fits(budget: Row[*tuple[Any, ...]], amount: Price) -> bool:
    """Whether a budget that a caller meets has enough left for a reservation."""
    return bool(budget.settled_nanos + budget.reserved_nanos + amount.nanos <= budget.limit_nanos)
