"""The ledger: reserves before a provider is called, and settles or releases afterwards, each exactly once.

Entries are only ever added. A reservation is open until an entry ends it, and a unique index allows one such entry for
each. Budgets are counted in the same transactions, under a shared lock. Recounting them takes the lock exclusively.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select, text

from aiworkspace.v1 import common_pb2

from ..kit.errors import InvalidArgument, RateLimited
from ..kit.ids import new_id
from ..kit.postgres import ReadSession, WriteSession
from ..kit.timestamps import now
from ..llm.base import TokenUsage
from ..llm.prices import Price, UnknownPrice, most, usd
from .models import TOKENS, LedgerEntry

# Held shared by all who write entries, and exclusively by who adds entries up. Comes first in a transaction: two that
# hold it shared and then want it exclusively would wait for each other.
_ALONE = text("SELECT pg_advisory_xact_lock(hashtextextended('ledger ' || CAST(:org_id AS text), 0))")
_TOGETHER = text("SELECT pg_advisory_xact_lock_shared(hashtextextended('ledger ' || CAST(:org_id AS text), 0))")

NOT_PRICED = "none"  # the price list of what cost nothing, whatever the prices

# The functions below are in the database, where the start and the end of a run call them: migrations 0012 and 0014.
COUNTING_NEW_RUN = """
  budgets b JOIN counting_budgets(
    CAST(:workspace_id AS uuid), CAST(:user_id AS uuid), root_of_key(CAST(:key_id AS uuid), NULL),
    CAST(:run_time AS timestamptz), CAST(:own_key AS boolean)) AS counts ON counts.budget_id = b.id
"""
# The limit of a budget; for an allowance that the operator has not set, the server's default. NULL: no limit.
LIMIT = "coalesce(b.limit_nanos, CAST(:allowance_nanos AS bigint))"
UNLIMITED = 2**63 - 1  # in place of a limit: the operator took that of an allowance away

_RESERVE = text("""
  SELECT * FROM reserve_attempt(
    :org_id, :workspace_id, :conversation_id, :run_id, :run_time, :user_id, CAST(:key_id AS uuid),
    CAST(:request_id AS uuid), :id, :attempt, :model, :own_key, :nanos, :expected_nanos,
    CAST(:allowance_nanos AS bigint), :currency, :version, :time)
  ORDER BY limit_nanos - settled_nanos - reserved_nanos
""")
_END = text("SELECT end_attempts(:org_id, CAST(:settlements AS jsonb), :time)")
_WHOSE = "org_id, workspace_id, conversation_id, run_id, run_time, user_id, key_id, key_root_id, request_id"
_TOKENS = ", ".join(TOKENS)
_GIVEN_TOKENS = ", ".join(f"CAST(:{name} AS bigint)" for name in TOKENS)
# Copies who and what from the first entry of the attempt.
_ADJUST = text(f"""
  INSERT INTO ledger_entries ({_WHOSE}, id, kind, attempt, model, own_key, {_TOKENS}, estimated, reserved_nanos,
                              cost_nanos, currency, price_version, create_time)
  SELECT {_WHOSE}, :id, 'adjust', attempt, model, own_key, {_GIVEN_TOKENS}, false, 0, :nanos, :currency, :version, :time
  FROM ledger_entries
  WHERE run_id = :run_id AND attempt = :attempt
  ORDER BY id LIMIT 1
""")
_COUNT = text("SELECT count_entries(ARRAY[CAST(:id AS uuid)])")

_NAMES = {
    "org": "budget of the organization",
    "workspace": "budget of the workspace",
    "member": "budget of the member",
    "api_key": "budget of the key",
    "allowance": "allowance of the organization on the server's own keys",
}


@dataclass(frozen=True, slots=True)
class Spender:
    """For whom and for what a run spends money."""

    org_id: UUID
    workspace_id: UUID
    conversation_id: UUID
    run_id: UUID
    run_time: datetime
    user_id: UUID
    key_id: UUID | None  # API key that started the run
    request_id: UUID | None


@dataclass(frozen=True, slots=True)
class ExceededBudget:
    """A hard budget that has not enough left for a reservation, with that reservation counted in it."""

    id: UUID
    scope: str
    period: str
    limit_nanos: int
    start_time: datetime
    settled_nanos: int
    reserved_nanos: int


class BudgetExhausted(RateLimited):
    """A hard budget does not have enough left for a reservation."""

    def __init__(self, row: ExceededBudget, amount: Price, expected_nanos: int) -> None:
        opens = window_end(row.period, row.start_time)
        left = max(0, row.limit_nanos - row.settled_nanos - row.reserved_nanos + amount.nanos)
        needed = expected_nanos if row.scope == "allowance" else amount.nanos
        then = (
            f"its next window begins at {opens:%Y-%m-%d %H:%M} UTC"
            if needed <= row.limit_nanos
            else "that is more than its limit"
        )
        if row.scope == "allowance":
            then += ". The server's operator can raise it; requests with the organization's own key do not count"
        message = (
            f"The {row.period}'s {_NAMES[row.scope]} has {usd(left)} {amount.currency} left, and this request may"
            f" cost up to {usd(needed)} {amount.currency}; {then}."
        )
        super().__init__(
            f"budget:{row.id}",
            message,
            (opens - now()).total_seconds(),
            common_pb2.ERROR_REASON_BUDGET_EXHAUSTED,
            {"budget_id": str(row.id), "remaining_nanos": str(left), "currency": amount.currency},
        )


class Ledger:
    """Writes entries, in the caller's transaction and for its tenant.

    All writers lock in the same order, so that no two wait for each other: the ledger of the organization, roll-ups by
    model, budget windows by budget.
    """

    def __init__(self, allowance_nanos: int | None) -> None:
        """`allowance_nanos` is the default allowance of an organization per month; None means no limit."""
        self.allowance_nanos = allowance_nanos

    async def reserve(
        self,
        tx: WriteSession,
        spender: Spender,
        attempt: int,
        model: str,
        amount: Price,
        *,
        own_key: bool,
        time: datetime | None = None,
        expected_nanos: int | None = None,
    ) -> None:
        """Reserve an amount for an attempt. Raises BudgetExhausted; the transaction must then be rolled back.

        Hard budgets must have the whole amount left, so that they are never exceeded. An allowance must have only
        `expected_nanos` left: it limits what strangers can spend, and the bound of one byte per token would refuse long
        prose that costs far less. Budgets and allowances count the whole amount until the attempt ends.
        `time`, by default now, is the time of the entry. The attempt is reserved, settled and reconciled at its prices.
        """
        expected_nanos = amount.nanos if expected_nanos is None else min(expected_nanos, amount.nanos)
        values = asdict(spender) | {"currency": amount.currency, "version": amount.version, "nanos": amount.nanos}
        values |= {"expected_nanos": expected_nanos, "allowance_nanos": self.allowance_nanos, "own_key": own_key}
        values |= {"id": new_id(), "attempt": attempt, "model": model, "time": time or now()}
        if exceeded := (await tx.execute(_RESERVE, values)).first():
            raise BudgetExhausted(ExceededBudget(**exceeded._mapping), amount, expected_nanos)

    async def settle(
        self, tx: WriteSession, org_id: UUID, run_id: UUID, attempt: int, usage: TokenUsage, cost: Price
    ) -> bool:
        """End the reservation with the attempt's usage and cost. Return False if it has ended or does not exist."""
        return await self._end(tx, org_id, run_id, attempt, "settle", usage, cost)

    async def release(self, tx: WriteSession, org_id: UUID, run_id: UUID, attempt: int) -> bool:
        """End the reservation of an attempt that cost nothing. Return False if it has ended or does not exist."""
        return await self._end(tx, org_id, run_id, attempt, "release", TokenUsage(0, 0, 0, 0, 0), Price(0, NOT_PRICED))

    async def settle_left(self, tx: WriteSession, org_id: UUID, run_id: UUID) -> None:
        """End what a process that died had reserved: at the full amount, since the model may have done its work."""
        for left in await list_reserved(tx, run_id):
            if left.reserved_nanos == 0:
                await self.release(tx, org_id, run_id, left.attempt)
            else:
                amount = Price(left.reserved_nanos, left.price_version, left.currency)
                await self.settle(tx, org_id, run_id, left.attempt, TokenUsage(0, 0, 0, 0, 0, estimated=True), amount)

    async def _end(
        self, tx: WriteSession, org_id: UUID, run_id: UUID, attempt: int, kind: str, usage: TokenUsage, cost: Price
    ) -> bool:
        settlements = json.dumps([settlement(run_id, attempt, kind, usage, cost)])
        values = {"org_id": org_id, "settlements": settlements, "time": now()}
        return bool((await tx.execute(_END, values)).scalar_one())

    async def adjust(
        self, tx: WriteSession, run_id: UUID, attempt: int, tokens: Mapping[str, int], difference: Price
    ) -> None:
        """Correct usage and cost of an ended attempt by the differences. The caller must hold the exclusive lock.

        `tokens` has a number for each of TOKENS.
        """
        values = {**tokens, **asdict(difference), "run_id": run_id, "attempt": attempt, "id": new_id(), "time": now()}
        await tx.execute(_ADJUST, values)
        await tx.execute(_COUNT, {"id": values["id"]})


def settlement(run_id: UUID, attempt: int, kind: str, usage: TokenUsage, cost: Price) -> dict[str, object]:
    """Return the end of a reservation as the function end_attempts takes it. `kind`: settle or release."""
    ids = {"id": str(new_id()), "run_id": str(run_id)}
    return {**ids, "attempt": attempt, "kind": kind, **asdict(usage), **asdict(cost)}


async def count_together(tx: WriteSession, org_id: UUID) -> None:
    """Keep everybody who counts alone from the organization's entries until the transaction ends."""
    await tx.execute(_TOGETHER, {"org_id": org_id})


async def count_alone(tx: WriteSession, org_id: UUID) -> None:
    """Take the organization's ledger lock exclusively: no other transaction writes entries until this one ends.

    Needed to change what is counted, or to write entries of several runs. Must come first in a transaction: two that
    hold the shared lock and ask for the exclusive one would deadlock.
    """
    await tx.execute(_ALONE, {"org_id": org_id})


async def list_reserved(tx: ReadSession, run_id: UUID) -> Sequence[LedgerEntry]:
    """Return the open reservations of a run, by attempt."""
    ends = select(LedgerEntry.attempt).where(LedgerEntry.run_id == run_id, LedgerEntry.kind.in_(("settle", "release")))
    begins = LedgerEntry.run_id == run_id, LedgerEntry.kind == "reserve", LedgerEntry.attempt.not_in(ends)
    return (await tx.execute(select(LedgerEntry).where(*begins).order_by(LedgerEntry.attempt))).scalars().all()


async def last_attempt(tx: ReadSession, run_id: UUID) -> int:
    """Return the number of a run's last attempt, 0 if it has none."""
    query = select(func.max(LedgerEntry.attempt)).where(LedgerEntry.run_id == run_id)
    return (await tx.execute(query)).scalar_one() or 0


async def list_settled(tx: ReadSession, run_id: UUID) -> Sequence[LedgerEntry]:
    """Return the settle entries of a run, by attempt."""
    query = select(LedgerEntry).where(LedgerEntry.run_id == run_id, LedgerEntry.kind == "settle")
    return (await tx.execute(query.order_by(LedgerEntry.attempt))).scalars().all()


async def list_of_run(tx: ReadSession, run_id: UUID) -> Sequence[LedgerEntry]:
    """Return all entries of a run, by attempt and then in the order in which they were made."""
    query = select(LedgerEntry).where(LedgerEntry.run_id == run_id)
    return (await tx.execute(query.order_by(LedgerEntry.attempt, LedgerEntry.id))).scalars().all()


def reservation(model: str, input_tokens: int, max_output_tokens: int, at: datetime) -> Price:
    """Return the most that a request with at most so many tokens can cost.

    Raises InvalidArgument for a model without a price.
    """
    try:
        return most(model, input_tokens, max_output_tokens, at)
    except UnknownPrice:
        raise InvalidArgument({"model": f"there is no price for {model[:100]!r}; use another model"}) from None


def window_start(period: str, time: datetime) -> datetime:
    """Return the start of the budget window that contains a time in UTC."""
    midnight = time.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight if period == "day" else midnight.replace(day=1)


def window_end(period: str, start: datetime) -> datetime:
    """Return the end of the budget window that starts at `start`."""
    if period == "day":
        return start + timedelta(days=1)
    return (start + timedelta(days=32)).replace(day=1)
