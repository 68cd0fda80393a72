"""Rules of budgets. Changes hold the ledger's exclusive lock, so that no run is counted twice or missed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row

from aiworkspace.v1 import common_pb2
from aiworkspace.v1 import event_pb2 as event

from ..events.outbox import append
from ..kit.errors import FailedPrecondition, InvalidArgument, NotFound, check_etag
from ..kit.ids import new_id
from ..kit.postgres import ReadSession, WriteSession
from ..kit.timestamps import now
from ..llm.prices import Price
from ..orgs.store import find_member
from ..service_accounts.store import find_key
from ..usage.ledger import UNLIMITED, count_alone
from ..usage.rebuild import count_budget
from ..workspaces.store import find_workspace
from . import store
from .models import Budget, BudgetCount

ORGS_WITH_ALLOWANCE = 3  # of the organizations that one account creates

# For each scope with a subject: the field that names it, and how to find it.
_SUBJECTS = {
    "workspace": ("workspace_id", find_workspace),
    "member": ("user_id", find_member),
    "api_key": ("api_key_id", find_key),
}


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of a budget."""

    scope: str
    period: str
    limit_nanos: int
    hard: bool
    alert_percents: list[int]


async def create_budget(tx: WriteSession, org_id: UUID, terms: Terms, named: Mapping[str, UUID]) -> Budget:
    """Create a budget and count existing spending in it. `named` has the ids in the request, by field."""
    await count_alone(tx, org_id)
    subject_id = await _find_subject(tx, terms.scope, named)
    named_key = await find_key(tx, subject_id) if subject_id and terms.scope == "api_key" else None
    time = now()
    budget = Budget(
        org_id=org_id,
        id=new_id(),
        scope=terms.scope,
        subject_id=named_key.line_id if named_key else subject_id,
        named_id=named_key.id if named_key else None,
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
    append(tx, event.EVENT_TYPE_BUDGET_CREATED, budget_id=budget.id)
    return budget


async def _find_subject(tx: ReadSession, scope: str, named: Mapping[str, UUID]) -> UUID | None:
    """Return the subject of a budget, None for each separately. Raises NotFound if it is not in the organization."""
    for field, find in _SUBJECTS.values():
        if field in named and await find(tx, named[field]) is None:
            raise NotFound(field)
    field, _ = _SUBJECTS.get(scope, ("", None))
    if wrong := named.keys() - {field}:
        raise InvalidArgument(dict.fromkeys(wrong, "does not fit this scope"))
    return named.get(field)


async def get_budget(
    tx: ReadSession, budget_id: UUID, allowance_nanos: int | None = None
) -> tuple[Budget, BudgetCount | None]:
    """Return a budget and its current window. Raises NotFound, also for an allowance without a limit."""
    found = await _find_limited(tx, budget_id, allowance_nanos)
    if found is None:
        raise NotFound("budget_id")
    return found


async def find_allowance(
    tx: ReadSession, org_id: UUID, allowance_nanos: int | None
) -> tuple[Budget, BudgetCount | None] | None:
    """Return the organization's allowance and its current window; None if it has no limit."""
    return await _find_limited(tx, org_id, allowance_nanos)  # it has the organization's id


async def _find_limited(
    tx: ReadSession, budget_id: UUID, allowance_nanos: int | None
) -> tuple[Budget, BudgetCount | None] | None:
    found = await store.find_budget(tx, budget_id)
    if found is None or limit_of(found[0], allowance_nanos) == UNLIMITED:
        return None
    return found[0], found[1]


def limit_of(budget: Budget, allowance_nanos: int | None) -> int:
    """Return the limit of a budget; the server's default for an allowance that the operator has not set."""
    if budget.limit_nanos is not None:
        return budget.limit_nanos
    return UNLIMITED if allowance_nanos is None else allowance_nanos


async def update_budget(tx: WriteSession, org_id: UUID, budget_id: UUID, etag: str, values: dict[str, Any]) -> Budget:
    await count_alone(tx, org_id)
    budget = await store.lock_budget(tx, budget_id)
    if budget is None:
        raise NotFound("budget.budget_id")
    _check_own(budget)
    check_etag(etag, budget.version, "budget.etag")
    for name, value in values.items():
        setattr(budget, name, value)
    budget.version += 1
    budget.update_time = now()
    await store.forget_alerts(tx, budget.id, limit_of(budget, None))
    append(tx, event.EVENT_TYPE_BUDGET_UPDATED, budget_id=budget.id)
    return budget


async def delete_budget(tx: WriteSession, org_id: UUID, budget_id: UUID) -> None:
    await count_alone(tx, org_id)
    budget = await store.lock_budget(tx, budget_id)
    if budget is None:
        raise NotFound("budget_id")
    _check_own(budget)
    await tx.delete(budget)
    append(tx, event.EVENT_TYPE_BUDGET_DELETED, budget_id=budget_id)


async def count_new_org(tx: WriteSession, org_id: UUID, creator_id: UUID, allowance_nanos: int | None) -> None:
    """Set the allowance of a new organization to zero if its creator has made enough others, including deleted ones.

    Otherwise a person could multiply the allowance by creating organizations.
    """
    if await store.count_created_org(tx, creator_id) > ORGS_WITH_ALLOWANCE and allowance_nanos is not None:
        await set_allowance(tx, org_id, 0)


async def set_allowance(tx: WriteSession, org_id: UUID, limit_nanos: int | None) -> Budget | None:
    """Set and return an organization's allowance, None if there is none. A `limit_nanos` of None is the default."""
    await count_alone(tx, org_id)
    budget = await store.lock_budget(tx, org_id)
    if budget is None:
        return None
    budget.limit_nanos = limit_nanos
    budget.version += 1
    budget.update_time = now()
    return budget


def _check_own(budget: Budget) -> None:
    if budget.scope == "allowance":
        raise FailedPrecondition(
            common_pb2.ERROR_REASON_ALLOWANCE_FIXED,
            "This is the organization's allowance on the server's own keys. Only the server's operator can change it.",
        )


def fits(budget: Row[*tuple[Any, ...]], amount: Price) -> bool:
    """Return whether a budget has enough left for a reservation."""
    return bool(budget.settled_nanos + budget.reserved_nanos + amount.nanos <= budget.limit_nanos)
