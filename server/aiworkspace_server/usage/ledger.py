"""The ledger: reserve before a provider is asked, settle or release when it has answered; each once, whatever happens.

Entries are only ever added. A reservation is open while there is no entry that ends it, and the database takes one such
entry for each. Budgets are counted in the same transactions, under a lock that whoever counts them anew takes alone.
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

# Held by all who write entries together, and by who adds entries up alone. To be taken in a statement before the one
# that looks at budgets.
TOGETHER = "(SELECT pg_advisory_xact_lock_shared(hashtextextended('ledger ' || CAST(:org_id AS text), 0)))"
_ALONE = text("SELECT pg_advisory_xact_lock(hashtextextended('ledger ' || CAST(:org_id AS text), 0))")

NOT_PRICED = "none"  # the price list of what cost nothing, whatever the prices

_WHOSE = "org_id, workspace_id, conversation_id, run_id, run_time, user_id, key_id, key_root_id, request_id"
_TOKENS = ", ".join(TOKENS)
_GIVEN_TOKENS = ", ".join(f"CAST(:{name} AS bigint)" for name in TOKENS)
# The first key of the line of rotations that a key belongs to: budgets of keys count the whole line. A line that was
# deleted while a run of it goes on is still known from the run's first entry.
_ROOT_OF_KEY = """coalesce(
    (SELECT coalesce(k.root_id, k.id) FROM api_keys k WHERE k.id = CAST(:key_id AS uuid)),
    (SELECT e.key_root_id FROM ledger_entries e WHERE e.run_id = CAST(:run_id AS uuid) LIMIT 1),
    CAST(:key_id AS uuid))"""


def counting(key_root: str) -> str:
    """Return the FROM clause of the budgets that count a run, each with whose it is and the window.

    The window is that in which the run began, if the budget was there before it ended. `key_root` is SQL for the first
    key of the line. An allowance counts what the server's own keys are used for.
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
# The limit of a budget; for an allowance that the operator has not set, the server's default. NULL: no limit.
LIMIT = "coalesce(b.limit_nanos, CAST(:allowance_nanos AS bigint))"
UNLIMITED = 2**63 - 1  # in place of a limit: the operator took that of an allowance away

_LOCK = text(f"SELECT 1 FROM {TOGETHER} AS locked")


def _count_in_budgets(budgets: str) -> str:
    """Rows are locked in the order of the budgets, to avoid deadlocks."""
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
# Copies who and what from the first entry of the attempt.
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

# Told of windows in which more was spent, in the transaction that counted it.
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
    key_id: UUID | None  # of an API key
    request_id: UUID | None


class BudgetExhausted(RateLimited):
    """A hard budget does not have enough left for a reservation."""

    def __init__(self, row: Row[*tuple[Any, ...]], amount: Price, expected_nanos: int) -> None:
        opens = window_end(row.period, row.start_time)
        left = max(0, row.limit_nanos - row.settled_nanos - row.reserved_nanos + amount.nanos)
        needed = expected_nanos if row.scope == "allowance" else amount.nanos
        then = (
            f"it opens again at {opens:%Y-%m-%d %H:%M} UTC" if needed <= row.limit_nanos else "it never has that much"
        )
        if row.scope == "allowance":
            then += (
                ". The operator of the server can raise it, and a key of the organization's own does not count in it"
            )
        message = (
            f"The {row.period}'s {_NAMES[row.scope]} has {usd(left)} {amount.currency} left and this may cost"
            f" up to {usd(needed)} {amount.currency}; {then}."
        )
        super().__init__(
            f"budget:{row.id}",
            message,
            (opens - now()).total_seconds(),
            common_pb2.ERROR_REASON_BUDGET_EXHAUSTED,
            {"budget_id": str(row.id), "remaining_nanos": str(left), "currency": amount.currency},
        )


class Ledger:
    """Writes entries. Every method works in the caller's transaction, as the tenant of it.

    A transaction ends one reservation at most, before it makes another, or counts alone. So it locks the roll-ups of
    one model and then the budgets, and no two wait for what the other has locked.
    """

    def __init__(self, watch: Watch, allowance_nanos: int | None) -> None:
        """`allowance_nanos`: what an organization may spend in a month on the server's keys; None: no limit."""
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
        """Reserves for an attempt. Raises BudgetExhausted, after which the transaction must not be committed.

        Budgets must have the whole amount left: they are never exceeded. An allowance must have `expected_nanos` left:
        it keeps strangers from spending without end, and one long text in a language of a few bytes a token does not
        have to be reserved as if every byte were one. All count the whole amount until the attempt ends.
        `time`, or now, is the time of the entry, at whose prices the attempt is reserved, settled and reconciled.
        """
        if attempt > 1:  # else the claim of the run took the lock
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
        """Ends the reservation with what the attempt used. False when it was ended before, or never there."""
        return await self._end(tx, org_id, run_id, attempt, "settle", usage, cost)

    async def release(self, tx: WriteSession, org_id: UUID, run_id: UUID, attempt: int) -> bool:
        """Ends the reservation of an attempt for which there is nothing to pay."""
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
        """Corrects what an attempt that has ended used and cost, by the differences. To be called by who counts alone.

        `tokens` has a number for each of TOKENS.
        """
        values = {**tokens, **asdict(difference), "run_id": run_id, "attempt": attempt}
        await self._count(tx, (await tx.execute(_ADJUST, values | {"id": new_id(), "time": now()})).one())

    async def _count(self, tx: WriteSession, entry: Row[*tuple[Any, ...]]) -> None:
        """Adds an entry that was just written to roll-ups and budgets."""
        values = {**entry._mapping, "requests": int(entry.kind == "settle")}
        windows = (await tx.execute(_COUNT, values)).all()
        if windows and entry.cost_nanos > 0:
            await self._watch(tx, windows)


async def count_alone(tx: WriteSession, org_id: UUID) -> None:
    """Keeps all others from writing entries of the organization until the transaction ends.

    For who changes what is counted, or writes entries of several runs. Comes first in a transaction: two who hold the
    lock together and want it alone would wait for each other.
    """
    await tx.execute(_ALONE, {"org_id": org_id})


async def list_reserved(tx: ReadSession, run_id: UUID) -> Sequence[LedgerEntry]:
    """The reservations of a run that nothing has ended, by attempt."""
    ends = select(LedgerEntry.attempt).where(LedgerEntry.run_id == run_id, LedgerEntry.kind.in_(("settle", "release")))
    begins = LedgerEntry.run_id == run_id, LedgerEntry.kind == "reserve", LedgerEntry.attempt.not_in(ends)
    return (await tx.execute(select(LedgerEntry).where(*begins).order_by(LedgerEntry.attempt))).scalars().all()


async def list_settled(tx: ReadSession, run_id: UUID) -> Sequence[LedgerEntry]:
    """What the attempts of a run have cost so far, by attempt."""
    query = select(LedgerEntry).where(LedgerEntry.run_id == run_id, LedgerEntry.kind == "settle")
    return (await tx.execute(query.order_by(LedgerEntry.attempt))).scalars().all()


def reservation(model: str, input_tokens: int, max_output_tokens: int, at: datetime) -> Price:
    """Return the most that a request with so many tokens, or fewer, can cost.

    Raise InvalidArgument for a model without a price.
    """
    try:
        return most(model, input_tokens, max_output_tokens, at)
    except UnknownPrice:
        raise InvalidArgument({"model": f"no price list knows what {model[:100]!r} costs"}) from None


def window_start(period: str, time: datetime) -> datetime:
    """When the window of a budget began in which a time in UTC lies."""
    midnight = time.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight if period == "day" else midnight.replace(day=1)


def window_end(period: str, start: datetime) -> datetime:
    """When the window of a budget that began at `start` ends."""
    if period == "day":
        return start + timedelta(days=1)
    return (start + timedelta(days=32)).replace(day=1)
