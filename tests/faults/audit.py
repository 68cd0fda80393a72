"""The ledger beside the provider's bill: corrected by it as an operator does that, and then the same to the unit."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from aiworkspace_server.llm.base import TokenUsage
from aiworkspace_server.llm.prices import price

from .trial import Trial

_NOTHING = TokenUsage(0, 0, 0, 0, 0)
_ATTEMPTS = """
  SELECT run_id, attempt, min(model), min(create_time), sum(input_tokens)::bigint, sum(output_tokens)::bigint,
         sum(cost_nanos)::bigint, count(*) FILTER (WHERE kind = 'adjust'),
         count(*) FILTER (WHERE kind IN ('settle', 'release'))
  FROM ledger_entries WHERE org_id = %s GROUP BY run_id, attempt
"""
_PROVIDERS = "SELECT DISTINCT split_part(model, '/', 1) FROM ledger_entries WHERE org_id = %s"
_SUMS = """
  SELECT (SELECT coalesce(sum(cost_nanos), 0) FROM ledger_entries WHERE org_id = %(org_id)s),
         (SELECT coalesce(sum(cost_nanos), 0) FROM usage_rollups WHERE org_id = %(org_id)s AND period = 'day'),
         (SELECT coalesce(sum(cost_nanos), 0) FROM usage_rollups WHERE org_id = %(org_id)s AND period = 'hour'),
         (SELECT coalesce(min(settled_nanos), 0) FROM budget_windows WHERE org_id = %(org_id)s),
         (SELECT coalesce(max(settled_nanos), 0) FROM budget_windows WHERE org_id = %(org_id)s)
"""


async def compare(trial: Trial) -> tuple[int, int, list[str]]:
    """How many attempts had to be adjusted, the nanos that are different after that, and what else does not add up."""
    await trial.bill_is_whole()
    wrong = await _uncharged(trial)
    await _reconcile(trial)
    wrong += [
        f"{name} was asked {n} times" for name, n in Counter(each.request for each in trial.bill).items() if n > 1
    ]
    charged = {charge.request: charge.usage for charge in trial.bill}
    adjusted = difference = 0
    for run_id, attempt, model, time, *tokens, nanos, adjustments, ends in await trial.site.rows(
        _ATTEMPTS, UUID(trial.org_id)
    ):
        request = f"{run_id}/{attempt}"
        usage = charged.pop(request, _NOTHING)
        right = price(model, usage, time).nanos
        difference += abs(nanos - right)
        adjusted += bool(adjustments)
        if [*tokens, nanos] != [usage.input_tokens, usage.output_tokens, right]:
            wrong.append(f"{request}: {tokens} for {nanos} in the ledger, {usage} for {right} on the bill")
        if ends != 1:
            wrong.append(f"{request}: its reservation was ended {ends} times")
    wrong += [f"{request}: billed and not in the ledger" for request in charged]
    return adjusted, difference, wrong + await unequal_sums(trial)


async def unequal_sums(trial: Trial) -> list[str]:
    """How roll-ups and budgets differ from the entries of the ledger."""
    entries, *sums = (await trial.site.rows(_SUMS, {"org_id": UUID(trial.org_id)}))[0]
    if set(sums) == {entries}:
        return []
    return [f"the entries add up to {entries}; roll-ups of days and hours, and budgets, to {sums}"]


async def _uncharged(trial: Trial) -> list[str]:
    """What was billed and charged to nobody, before anybody corrected it: an estimate is inexact at the most."""
    rows = await trial.site.rows(_ATTEMPTS, UUID(trial.org_id))
    charged = {f"{run_id}/{attempt}" for run_id, attempt, _, _, tokens, *_ in rows if tokens}
    billed = {charge.request for charge in trial.bill if charge.usage.input_tokens}
    return [f"{request}: billed, and charged to nobody" for request in billed - charged]


async def _reconcile(trial: Trial) -> None:
    """The operator's command, over what each provider says that it billed in this time."""
    times = trial.begin_time - trial.clock_error, datetime.now(UTC) + trial.clock_error + timedelta(seconds=1)
    for (provider,) in await trial.site.rows(_PROVIDERS, UUID(trial.org_id)):
        file = trial.site.directory / f"bill-{trial.org_id}-{provider}.jsonl"
        _export(trial, provider, file)
        start, end = (time.isoformat() for time in times)
        await trial.server.command(
            *("reconcile", str(file), f"--provider={provider}", "--complete", f"--start={start}", f"--end={end}")
        )


def _export(trial: Trial, provider: str, file: Path) -> None:
    lines = [json.dumps(charge.line()) for charge in trial.bill if charge.provider == provider]
    file.write_text("".join(f"{line}\n" for line in lines))
