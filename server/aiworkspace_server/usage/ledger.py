"""The ledger: reserves before a provider is called, and settles or releases afterwards, each exactly once.

Entries are only ever added. A reservation is open until an entry ends it, and a unique index allows one such entry for
each. Budgets are counted in the same transactions, under a shared lock. Recounting them takes the lock exclusively.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select, text

from aiworkspace.v1 import common_pb2

from ..kit.errors import InvalidArgument, RateLimited
from ..kit.ids import new_id
from ..kit.postgres import ReadSession, WriteSession
from ..kit.timestamps import now
from ..llm.base import TokenUsage
from ..llm.prices import Price, UnknownPrice, most, usd
from .models import NO_KEY, TOKENS, LedgerEntry

# Shared by transactions that write entries, exclusive for those that add them up. Must be taken in a statement before
# the one that reads budgets, which would otherwise not see what was committed while it waited.
TOGETHER = "(SELECT pg_advisory_xact_lock_shared(hashtextextended('ledger ' || CAST(:org_id AS text), 0)))"
_ALONE = text("SELECT pg_advisory_xact_lock(hashtextextended('ledger ' || CAST(:org_id AS text), 0))")

NOT_PRICED = "none"  # price version of entries that cost nothing at any price

_WHOSE = "org_id, workspace_id, conversation_id, run_id, run_time, user_id, key_id, key_root_id, request_id"
_TOKENS = ", ".join(TOKENS)
_GIVEN_TOKENS = ", ".join(f"CAST(:{name} AS bigint)" for name in TOKENS)
# The first key of the line that a key belongs to: budgets of keys count the whole line. If the line was deleted while
# its run is in progress, the run's first entry still has it.
_ROOT_OF_KEY = """coalesce(
    (SELECT coalesce(k.root_id, k.id) FROM api_keys k WHERE k.id = CAST(:key_id AS uuid)),
    (SELECT e.key_root_id FROM ledger_entries e WHERE e.run_id = CAST(:run_id AS uuid) LIMIT 1),
    CAST(:key_id AS uuid))"""


def counting(key_root: str) -> str:
    """Return the FROM clause of the budgets that count a run, each with its subject and window.

    The window is the one in which the run began, unless it ended before the budget was created. `key_root` is SQL for
    the first key of the line. An allowance counts only attempts with the server's own keys.
    """
    return f"""
  budgets b CROSS JOIN LATERAL (SELECT
    CASE b.scope
      WHEN 'org' THEN b.org_id
      WHEN 'workspace' THEN CAST(:workspace_id AS uuid)
      WHEN 'member' THEN CAST(:user_id AS uuid)
      WHEN 'allowance' THEN CASE WHEN NOT CAST(:own_key AS boolean) THEN b.org_id END
      ELSE {key_root} END,
    date_trunc(b.period, CAST(:run_time AS timestamptz), 'UTC')) AS counts(subject_id, start_time)
  WHERE counts.subject_id IS NOT NULL
    AND (b.scope = 'org' OR b.subject_id IS NULL OR b.subject_id = counts.subject_id)
    AND counts.start_time >= date_trunc(b.period, b.create_time, 'UTC')
"""


COUNTING_NEW_RUN = counting(_ROOT_OF_KEY)
# The limit of a budget. An allowance that the operator has not set has the server's default. NULL means no limit.
LIMIT = "coalesce(b.limit_nanos, CAST(:allowance_nanos AS bigint))"
UNLIMITED = 2**63 - 1  # stored as the limit of an allowance that the operator made unlimited

_LOCK = text(f"SELECT 1 FROM {TOGETHER} AS locked")


def _count_in_budgets(budgets: str) -> str:
    """Return the statement that adds to the windows of budgets. Rows are locked in one order, to avoid deadlocks."""
    return f"""
  INSERT INTO budget_windows AS w (org_id, budget_id, subject_id, start_time, settled_nanos, reserved_nanos,
                                   alerted_percent)
  SELECT b.org_id, b.id, counts.subject_id, counts.start_time, CAST(:cost_nanos AS bigint),
         greatest(CAST(:reserved_nanos AS bigint), 0), 0
  FROM {budgets} ORDER BY b.id
  ON CONFLICT (org_id, budget_id, subject_id, start_time) DO UPDATE SET
    settled_nanos = w.settled_nanos + CAST(:cost_nanos AS bigint),
    reserved_nanos = w.reserved_nanos + CAST(:reserved_nanos AS bigint)
  RETURNING *
"""


_RESERVE = text(f"""
  WITH entry AS (
    INSERT INTO ledger_entries ({_WHOSE}, id, kind, attempt, model, own_key, {_TOKENS}, estimated, reserved_nanos,
                                cost_nanos, currency, price_version, create_time)
    VALUES (:org_id, :workspace_id, :conversation_id, :run_id, :run_time, :user_id, :key_id, {_ROOT_OF_KEY},
            :request_id, :id, 'reserve', :attempt, :model, :own_key, 0, 0, 0, 0, 0, 0, 0, false, :reserved_nanos, 0,
            :currency, :version, :time)
  ), counted AS ({_count_in_budgets(COUNTING_NEW_RUN)})
  SELECT b.id, b.scope, b.period, {LIMIT} AS limit_nanos, c.start_time, c.settled_nanos, c.reserved_nanos
  FROM counted c JOIN budgets b ON b.id = c.budget_id
  WHERE b.hard AND {LIMIT} < c.settled_nanos + c.reserved_nanos
    - CASE b.scope WHEN 'allowance' THEN CAST(:unexpected_nanos AS bigint) ELSE 0 END
  ORDER BY {LIMIT} - c.settled_nanos - c.reserved_nanos
""")
_END = text(f"""
  INSERT INTO ledger_entries ({_WHOSE}, id, kind, attempt, model, own_key, {_TOKENS}, estimated, above_limit,
                              reserved_nanos, cost_nanos, currency, price_version, create_time)
  SELECT {_WHOSE}, :id, :kind, attempt, model, own_key, {_GIVEN_TOKENS}, :estimated, :above_limit, -reserved_nanos,
         :nanos, :currency, :version, :time
  FROM ledger_entries, {TOGETHER} AS locked
  WHERE run_id = :run_id AND attempt = :attempt AND kind = 'reserve'
  ON CONFLICT (org_id, run_id, attempt) WHERE kind IN ('settle', 'release') DO NOTHING
  RETURNING *
""")
# Copies run, spender and model from the first entry of the attempt.
_ADJUST = text(f"""
  INSERT INTO ledger_entries ({_WHOSE}, id, kind, attempt, model, own_key, {_TOKENS}, estimated, reserved_nanos,
                              cost_nanos, currency, price_version, create_time)
  SELECT {_WHOSE}, :id, 'adjust', attempt, model, own_key, {_GIVEN_TOKENS}, false, 0, :nanos, :currency, :version, :time
  FROM ledger_entries
  WHERE run_id = :run_id AND attempt = :attempt
  ORDER BY id LIMIT 1
  RETURNING *
""")
_COUNT = text(f"""
  WITH sums AS (
    INSERT INTO usage_rollups AS r (org_id, period, start_time, workspace_id, user_id, key_id, model, request_count,
                                    {_TOKENS}, cost_nanos)
    SELECT :org_id, period, date_trunc(period, CAST(:run_time AS timestamptz), 'UTC'), :workspace_id, :user_id,
           coalesce(:key_id, CAST('{NO_KEY}' AS uuid)), :model, CAST(:requests AS bigint), {_GIVEN_TOKENS}, :cost_nanos
    FROM (VALUES ('day'), ('hour')) AS periods(period)
    WHERE :kind IN ('settle', 'adjust')
    ON CONFLICT (org_id, period, start_time, workspace_id, user_id, key_id, model) DO UPDATE SET
      request_count = r.request_count + excluded.request_count,
      {", ".join(f"{name} = r.{name} + excluded.{name}" for name in (*TOKENS, "cost_nanos"))}
  ), counted AS ({_count_in_budgets(counting("coalesce(CAST(:key_root_id AS uuid), CAST(:key_id AS uuid))"))})
  SELECT c.*, b.limit_nanos, b.alert_percents FROM counted c JOIN budgets b ON b.id = c.budget_id
""")

_NAMES = {
    "org": "budget of the organization",
    "workspace": "budget of the workspace",
    "member": "budget of the member",
    "api_key": "budget of the key",
    "allowance": "allowance of the organization on the server's own keys",
}

# Called with the budget windows whose spending increased, in the transaction that counted it.
Watch = Callable[[WriteSession, Sequence[Row[*tuple[Any, ...]]]], Awaitable[None]]


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


class BudgetExhausted(RateLimited):
    """A hard budget does not have enough left for a reservation."""

    def __init__(self, row: Row[*tuple[Any, ...]], amount: Price, expected_nanos: int) -> None:
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

    A transaction ends at most one reservation, before it makes another, or holds the exclusive lock. So it locks the
    roll-ups of one model and then the budgets, and two transactions never wait for each other.
    """

    def __init__(self, watch: Watch, allowance_nanos: int | None) -> None:
        """`allowance_nanos` is the default allowance of an organization per month; None means no limit."""
        self._watch = watch
        self._allowance_nanos = allowance_nanos

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
        if attempt > 1:  # for the first attempt, the run's claim has taken the lock
            await tx.execute(_LOCK, {"org_id": spender.org_id})
        values = asdict(spender) | {"currency": amount.currency, "version": amount.version}
        values |= {"reserved_nanos": amount.nanos, "cost_nanos": 0, "id": new_id(), "time": time or now()}
        values |= {"attempt": attempt, "model": model, "own_key": own_key, "allowance_nanos": self._allowance_nanos}
        expected_nanos = amount.nanos if expected_nanos is None else min(expected_nanos, amount.nanos)
        values["unexpected_nanos"] = amount.nanos - expected_nanos
        exceeded = (await tx.execute(_RESERVE, values)).all()
        if exceeded:
            raise BudgetExhausted(exceeded[0], amount, expected_nanos)

    async def settle(
        self, tx: WriteSession, org_id: UUID, run_id: UUID, attempt: int, usage: TokenUsage, cost: Price
    ) -> bool:
        """End the reservation with the attempt's usage and cost. Return False if it has ended or does not exist."""
        return await self._end(tx, org_id, run_id, attempt, "settle", usage, cost)

    async def release(self, tx: WriteSession, org_id: UUID, run_id: UUID, attempt: int) -> bool:
        """End the reservation of an attempt that cost nothing. Return False if it has ended or does not exist."""
        return await self._end(tx, org_id, run_id, attempt, "release", TokenUsage(0, 0, 0, 0, 0), Price(0, NOT_PRICED))

    async def _end(
        self, tx: WriteSession, org_id: UUID, run_id: UUID, attempt: int, kind: str, usage: TokenUsage, cost: Price
    ) -> bool:
        values = asdict(usage) | asdict(cost) | {"org_id": org_id, "run_id": run_id, "attempt": attempt}
        ended = (await tx.execute(_END, values | {"id": new_id(), "kind": kind, "time": now()})).one_or_none()
        if ended is None:
            return False
        await self._count(tx, ended)
        return True

    async def adjust(
        self, tx: WriteSession, run_id: UUID, attempt: int, tokens: Mapping[str, int], difference: Price
    ) -> None:
        """Correct usage and cost of an ended attempt by the differences. The caller must hold the exclusive lock.

        `tokens` has a number for each of TOKENS.
        """
        values = {**tokens, **asdict(difference), "run_id": run_id, "attempt": attempt}
        await self._count(tx, (await tx.execute(_ADJUST, values | {"id": new_id(), "time": now()})).one())

    async def _count(self, tx: WriteSession, entry: Row[*tuple[Any, ...]]) -> None:
        """Add a new entry to roll-ups and budgets."""
        values = {**entry._mapping, "requests": int(entry.kind == "settle")}
        windows = (await tx.execute(_COUNT, values)).all()
        if windows and entry.cost_nanos > 0:
            await self._watch(tx, windows)


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
