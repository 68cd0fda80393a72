"""Compares the ledger with a provider's bill, and corrects it with adjust entries."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text

from ..kit.errors import InvalidArgument
from ..kit.postgres import WriteSession
from ..kit.slices import in_slices
from ..llm.base import TokenUsage
from ..llm.prices import Price, UnknownPrice, price
from .ledger import NOT_PRICED, Ledger, count_alone
from .models import TOKENS

MATCHED, ADJUSTED, UNKNOWN, IN_PROGRESS, NOT_BILLED = "matched", "adjusted", "unknown", "in_progress", "not_billed"
STATES = (MATCHED, ADJUSTED, NOT_BILLED, IN_PROGRESS, UNKNOWN)

_MOST_IN_TIME = 10_000
_ROWS_AT_ONCE = 500  # decoded in a few milliseconds, during which the event loop is blocked

# Usage and cost of attempts, and whether their reservations have ended. The first entry of an attempt is its
# reservation, written just before the provider was called: its time determines the prices.
_ATTEMPTS = f"""
  SELECT run_id, attempt, min(model) AS model, min(create_time) AS ask_time, bool_or(own_key) AS own_key,
         bool_or(kind IN ('settle', 'release')) AS ended,
         {", ".join(f"CAST(sum({name}) AS bigint) AS {name}" for name in (*TOKENS, "cost_nanos"))}
  FROM ledger_entries
"""
_OF_RUNS = text(f"{_ATTEMPTS} WHERE run_id = ANY(CAST(:run_ids AS uuid[])) GROUP BY run_id, attempt")
# No entry is older than its run, but clocks may differ a little. Only runs have claims: bills name no single calls to
# embedding models.
_IN_TIME = text(f"""
  SELECT * FROM (
    {_ATTEMPTS}
    WHERE create_time >= CAST(:start AS timestamptz) - interval '1 hour' AND run_time >= :start AND run_time < :end
      AND starts_with(model, :provider || '/')
      AND EXISTS (SELECT FROM run_claims c WHERE c.org_id = ledger_entries.org_id AND c.run_id = ledger_entries.run_id)
    GROUP BY run_id, attempt) AS attempts
  WHERE own_key = :own_key AND ended AND (cost_nanos <> 0 OR {" OR ".join(f"{name} <> 0" for name in TOKENS)})
  ORDER BY run_id, attempt LIMIT {_MOST_IN_TIME + 1}
""")

Attempt = Row[*tuple[Any, ...]]  # of the queries above


@dataclass(frozen=True, slots=True)
class Billed:
    """What a provider billed for an attempt."""

    run_id: UUID
    attempt: int
    usage: TokenUsage


@dataclass(frozen=True, slots=True)
class Bill:
    """A provider's bill. If `complete` is set, it has every request of runs that began in [start, end)."""

    provider: str
    requests: Sequence[Billed]
    complete: tuple[datetime, datetime] | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """Billed minus recorded usage and cost of an attempt."""

    tokens: Mapping[str, int]
    cost: Price


@dataclass(frozen=True, slots=True)
class Reconciled:
    """The result of comparing the ledger with the bill for one attempt."""

    run_id: UUID
    attempt: int
    state: str
    difference: Difference | None = None

    @property
    def nanos(self) -> int:
        return self.difference.cost.nanos if self.difference else 0


async def reconcile(
    tx: WriteSession, ledger: Ledger, org_id: UUID, bill: Bill, *, own_keys_only: bool, dry_run: bool
) -> list[Reconciled]:
    """Return a result for each request in the order of the bill, then for those that were not billed. Idempotent.

    With `own_keys_only` the bill is that of the organization's own key: requests with the server's keys are reported as
    unknown, like those that do not exist. Otherwise the bill is the server's, and requests with an organization's own
    key are not expected in it.
    """
    _check(bill)
    await count_alone(tx, org_id)
    known = await _find(tx, bill, own_keys_only)
    found = [_compare(each, known.get((each.run_id, each.attempt))) async for each in in_slices(bill.requests)]
    async for attempt in in_slices(await _unbilled(tx, bill, own_keys_only)):
        found.append(Reconciled(attempt.run_id, attempt.attempt, NOT_BILLED, _difference(attempt, None)))
    for each in found:
        if each.difference and not dry_run:
            await ledger.adjust(tx, each.run_id, each.attempt, each.difference.tokens, each.difference.cost)
    return found


def _check(bill: Bill) -> None:
    """Raise InvalidArgument for impossible values, naming their place in the bill."""
    wrong = dict(_faults(bill.requests))
    if bill.complete and bill.complete[0] >= bill.complete[1]:
        wrong["end_time"] = "must be after start_time"
    if wrong:
        raise InvalidArgument(wrong)


def _faults(requests: Sequence[Billed]) -> Iterator[tuple[str, str]]:
    seen: dict[tuple[UUID, int], int] = {}
    for index, each in enumerate(requests):
        first = seen.setdefault((each.run_id, each.attempt), index)
        if first != index:
            yield f"requests[{index}]", f"is the same request as requests[{first}]"
        if not each.usage.plausible:
            yield f"requests[{index}].tokens", "are impossible: a part exceeds its whole, or a number is absurd"


async def _find(tx: WriteSession, bill: Bill, own_keys_only: bool) -> Mapping[tuple[UUID, int], Attempt]:
    """Return the ledger's attempts for the requests of the bill, leaving out other providers and foreign keys."""
    rows = await tx.execute(_OF_RUNS, {"run_ids": list({each.run_id for each in bill.requests})})
    return {
        (row.run_id, row.attempt): row
        for row in rows
        if row.model.partition("/")[0] == bill.provider and (row.own_key or not own_keys_only)
    }


async def _unbilled(tx: WriteSession, bill: Bill, own_key: bool) -> Sequence[Attempt]:
    """Return the ledger's attempts in the period of a complete bill that the bill does not have."""
    if bill.complete is None:
        return []
    start, end = bill.complete
    values = {"start": start, "end": end, "provider": bill.provider, "own_key": own_key}
    billed = {(each.run_id, each.attempt) for each in bill.requests}
    count, unbilled = 0, []
    async for rows in (await tx.stream(_IN_TIME, values)).partitions(_ROWS_AT_ONCE):
        count += len(rows)
        unbilled += [row for row in rows if (row.run_id, row.attempt) not in billed]
    if count > _MOST_IN_TIME:
        text = f"the ledger has more than {_MOST_IN_TIME:,} requests in this period; choose a shorter one"
        raise InvalidArgument({"end_time": text})
    return unbilled


def _compare(billed: Billed, known: Attempt | None) -> Reconciled:
    if known is None:
        return Reconciled(billed.run_id, billed.attempt, UNKNOWN)
    if not known.ended:
        return Reconciled(billed.run_id, billed.attempt, IN_PROGRESS)
    difference = _difference(known, billed.usage)
    return Reconciled(billed.run_id, billed.attempt, ADJUSTED if difference else MATCHED, difference)


def _difference(known: Attempt, usage: TokenUsage | None) -> Difference | None:
    """Return billed minus recorded, or None if they agree. `usage` is None if nothing was billed."""
    cost = _price(known, usage) if usage else Price(0, NOT_PRICED)
    billed = asdict(usage) if usage else dict.fromkeys(TOKENS, 0)
    tokens = {name: billed[name] - getattr(known, name) for name in TOKENS}
    nanos = cost.nanos - known.cost_nanos
    if not nanos and not any(tokens.values()):
        return None
    return Difference(tokens, Price(nanos, cost.version, cost.currency))


def _price(known: Attempt, usage: TokenUsage) -> Price:
    try:
        return price(known.model, usage, known.ask_time)
    except UnknownPrice:
        raise InvalidArgument({"requests": f"there is no price for {known.model!r}"}) from None
