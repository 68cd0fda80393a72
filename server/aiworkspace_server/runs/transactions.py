"""The start of a run and the end of some in PostgreSQL: one statement each, a transaction of its own.

The functions are in migrations 0012 and 0014.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg import DatabaseError

from ..kit.ids import new_id
from ..kit.postgres import Database
from ..kit.timestamps import now
from ..llm.base import TokenUsage
from ..llm.prices import Price
from ..usage.ledger import NOT_PRICED, BudgetExhausted, ExceededBudget, Spender, settlement
from .models import Settlement
from .rights import ROLES_THAT_RUN, RightLost

_START = f"SELECT * FROM start_run({', '.join(['%s'] * 22)})"
_END = "SELECT run_id, attempt, model, create_time FROM end_runs(%s, %s, %s::jsonb, %s)"
_RIGHT_LOST, _BUDGET_EXHAUSTED = "AW001", "AW002"
_ROLES = [ROLES_THAT_RUN[name] for name in ("administering", "sending", "sending_inside")]
_NOTHING_USED, _NO_COST = TokenUsage(0, 0, 0, 0, 0), Price(0, NOT_PRICED)


@dataclass(frozen=True, slots=True)
class Reservation:
    """What the first attempt of a run may cost."""

    model: str
    own_key: bool
    amount: Price
    expected_nanos: int


@dataclass(frozen=True, slots=True)
class OpenReservation:
    """A reservation that another server made for the run."""

    attempt: int
    model: str
    create_time: datetime


class UnsettledRun(NamedTuple):
    """A run that has ended, with the attempts that the ledger has still reserved."""

    org_id: UUID
    run_id: UUID
    settlements: Sequence[Settlement]


async def start_run(
    db: Database,
    spender: Spender,
    reservation: Reservation,
    allowance_nanos: int | None,
    content_hash: bytes,
    session_id: UUID | None,
    server_id: UUID,
) -> tuple[UUID | None, bytes | None] | None:
    """Claim the conversation and reserve for the first attempt.

    Return None if the run has started. Otherwise return run and content hash of an earlier request with the same
    request_id, or Nones if another run is in progress in the conversation. Raise RightLost or BudgetExhausted.
    """
    who, amount = spender, reservation.amount
    values = (
        *(who.org_id, who.workspace_id, who.conversation_id, who.run_id, who.run_time, who.user_id, who.key_id),
        *(who.request_id, session_id, content_hash, server_id, *_ROLES, new_id(), reservation.model),
        *(reservation.own_key, amount.nanos, min(reservation.expected_nanos, amount.nanos), allowance_nanos),
        *(amount.currency, amount.version),
    )
    try:
        rows = await db.fetch(_START, values)
    except DatabaseError as error:
        if error.sqlstate == _RIGHT_LOST:
            raise RightLost from None
        if error.sqlstate == _BUDGET_EXHAUSTED:
            exceeded = _exceeded(error.diag.message_detail or "")
            raise BudgetExhausted(exceeded, amount, reservation.expected_nanos) from None
        raise
    return (rows[0][0], rows[0][1]) if rows else None


def _exceeded(detail: str) -> ExceededBudget:
    found = json.loads(detail)
    found |= {"id": UUID(found["id"]), "start_time": datetime.fromisoformat(found["start_time"])}
    return ExceededBudget(**found)


async def end_runs(db: Database, ended: Sequence[UnsettledRun]) -> list[list[OpenReservation]]:
    """Settle attempts and close the claims of runs. Safe to repeat.

    Return for each run the other open reservations: its claim stays open until they are settled too.
    """
    orgs, runs = [each.org_id for each in ended], [each.run_id for each in ended]
    entries = [_entry(each.run_id, settlement) for each in ended for settlement in each.settlements]
    others: dict[UUID, list[OpenReservation]] = {run_id: [] for run_id in runs}
    for run_id, *reservation in await db.fetch(_END, (orgs, runs, json.dumps(entries), now())):
        others[run_id].append(OpenReservation(*reservation))
    return [others[run_id] for run_id in runs]


def _entry(run_id: UUID, ended: Settlement) -> dict[str, object]:
    usage, cost = ended["usage"], ended["cost"]
    if usage is None:
        return settlement(run_id, ended["number"], "release", _NOTHING_USED, _NO_COST)
    price = Price(cost["nanos"], cost["version"], cost["currency"])
    return settlement(run_id, ended["number"], "settle", TokenUsage(**usage), price)
