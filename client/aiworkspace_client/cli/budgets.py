"""aiws budgets: how much may be spent. aiws limits: which budgets and rate limits apply to a message."""

import re
from enum import StrEnum
from typing import Annotated, Any

import typer

from aiworkspace_client.cli import output
from aiworkspace_client.cli.account import Json, Yes
from aiworkspace_client.cli.orgs import Org
from aiworkspace_client.cli.session import connected
from aiworkspace_client.types import Budget, BudgetLimit, BudgetScope, BudgetStatus, BudgetWindow, Money, RateLimit

app = typer.Typer(no_args_is_help=True, help="Budgets: how much may be spent, by whom, in which window.")

_MOST_NANOS = 2**63 - 1
_AMOUNT = re.compile(r"([0-9]{1,18}|[0-9]{1,3}(,[0-9]{3}){1,5})(\.[0-9]{1,9})?")
_FIGURES = ("LIMIT", "SPENT", "RESERVED", "LEFT")
_COLUMNS = ("BUDGET", "WHOSE", "WINDOW", "KIND", *_FIGURES, "UNTIL")


BudgetId = Annotated[str, typer.Argument(help="Id from aiws budgets list.")]
Alerts = Annotated[
    list[int] | None, typer.Option("--alert", help="Percentage at which to send a mail. Repeat it.", min=1, max=100)
]


class Whose(StrEnum):
    """BudgetScope for the command line."""

    ORG = "org"
    WORKSPACE = "workspace"
    MEMBER = "member"
    API_KEY = "api-key"


class Window(StrEnum):
    """BudgetWindow for the command line."""

    DAY = "day"
    MONTH = "month"


def _usd(text: str) -> int:
    """Return the nanos of a typed amount. A comma separates thousands."""
    if not _AMOUNT.fullmatch(text):
        raise typer.BadParameter(
            f"{text!r} is not an amount such as 50, 0.25 or 1,200, with at most nine decimal places"
        )
    whole, _, rest = text.replace(",", "").partition(".")
    nanos = int(whole) * output.NANOS + int(rest.ljust(9, "0"))
    if nanos > _MOST_NANOS:
        raise typer.BadParameter(f"must not be greater than {output.money(_usd_of(_MOST_NANOS))}")
    return nanos


def _usd_of(nanos: int) -> Money:
    return Money(currency_code="USD", nanos=nanos)


@app.command("list")
def list_budgets(ctx: typer.Context, org: Org = "", json: Json = False) -> None:
    """List the allowance and the budgets, oldest first, with the amounts spent."""
    with connected(ctx) as session:
        pages = list(session.client.budgets.list(session.org_id(org)).pages())
        found = [page.allowance for page in pages if page.HasField("allowance")]
        found += [budget for page in pages for budget in page.budgets]
        if json:
            return output.as_json(found)
        output.table(_COLUMNS, map(_row, found), right=_FIGURES)


@app.command()
def create(
    ctx: typer.Context,
    limit: Annotated[int, typer.Argument(parser=_usd, metavar="USD", help="The most that may be spent, such as 50.")],
    per: Annotated[Window, typer.Option("--per", help="Window of the budget, in UTC.")] = Window.MONTH,
    whose: Annotated[Whose, typer.Option("--for", help="Whose spending it counts.")] = Whose.ORG,
    subject: Annotated[
        str, typer.Option("--id", help="Only this workspace, member or key. Without it, each has the same budget.")
    ] = "",
    soft: Annotated[bool, typer.Option("--soft", help="Only send alerts; refuse nothing.")] = False,
    alerts: Alerts = None,
    org: Org = "",
    json: Json = False,
) -> None:
    """Create a budget. It counts what was already spent in its current window."""
    if subject and whose == Whose.ORG:
        raise typer.BadParameter("--id is the id of a workspace, member or key: say which with --for")
    with connected(ctx) as session:
        budget = session.client.budgets.create(
            org_id=session.org_id(org),
            scope=BudgetScope.Value(f"BUDGET_SCOPE_{whose.name}"),
            window=BudgetWindow.Value(f"BUDGET_WINDOW_{per.name}"),
            limit=_usd_of(limit),
            workspace_id=subject if whose == Whose.WORKSPACE else "",
            user_id=subject if whose == Whose.MEMBER else "",
            api_key_id=subject if whose == Whose.API_KEY else "",
            hard=not soft,
            alert_percents=list(dict.fromkeys(alerts or ())),
        )
        if json:
            return output.as_json(budget)
        output.say(f"Created a budget of {output.money(budget.limit)} a {per}. Its id:", "green")
        output.out.print(budget.budget_id)


@app.command()
def update(
    ctx: typer.Context,
    budget_id: BudgetId,
    limit: Annotated[
        int | None, typer.Option(parser=_usd, metavar="USD", help="The most that may be spent, such as 50.")
    ] = None,
    hard: Annotated[
        bool | None, typer.Option("--hard/--soft", help="Refuse calls above the limit, or only send alerts.")
    ] = None,
    alerts: Alerts = None,
    no_alerts: Annotated[bool, typer.Option("--no-alerts", help="Send no mails.")] = False,
    org: Org = "",
) -> None:
    """Change the given settings of a budget."""
    if alerts and no_alerts:
        raise typer.BadParameter("--alert and --no-alerts cannot be combined")
    given: dict[str, Any] = {
        "limit": None if limit is None else _usd_of(limit),
        "hard": hard,
        "alert_percents": [] if no_alerts else alerts and list(dict.fromkeys(alerts)),
    }
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        raise typer.BadParameter("nothing to change: give --limit, --hard, --soft, --alert or --no-alerts")
    with connected(ctx) as session:
        budget = Budget(org_id=session.org_id(org), budget_id=budget_id, **changes)
        changed = session.client.budgets.update(budget=budget, update_mask=list(changes))
        kind = "hard" if changed.hard else "soft"
        output.say(f"The budget is a {kind} one of {output.money(changed.limit)} now.", "green")


@app.command()
def delete(
    ctx: typer.Context,
    budget_id: BudgetId,
    org: Org = "",
    yes: Yes = False,
) -> None:
    """Delete a budget."""
    with connected(ctx) as session:
        org_id = session.org_id(org)
        output.confirm(f"Delete the budget {budget_id}?", yes=yes)
        session.client.budgets.delete(org_id=org_id, budget_id=budget_id)
        output.say("Deleted.")


def limits(
    ctx: typer.Context,
    model: Annotated[str, typer.Option("--model", "-m", help="Model. Otherwise the workspace's default.")] = "",
    input_tokens: Annotated[int, typer.Option("--input", help="Tokens of the input.", min=0, max=100_000_000)] = 1000,
    output_tokens: Annotated[
        int, typer.Option("--output", help="Most tokens of the answer. 0: as many as allowed.", min=0, max=2**31 - 1)
    ] = 0,
    workspace: Annotated[
        str, typer.Option("--workspace", "-w", help="Id of the workspace. Otherwise the one that was used last.")
    ] = "",
    json: Json = False,
) -> None:
    """Show what a message may cost, and which budgets and rate limits apply to it. Nothing is sent."""
    with connected(ctx) as session:
        found = session.client.budgets.explain_limit(
            workspace_id=session.workspace_id(workspace),
            model=model,
            input_tokens=input_tokens,
            max_output_tokens=output_tokens,
        )
        if json:
            return output.as_json(found)
        answer = ["allowed", "yes" if found.allowed else "no"], ["model", found.model]
        output.table(("", ""), [*answer, ["may cost up to", output.money(found.reservation)]])
        if found.budgets:
            output.table((*_COLUMNS, "FITS"), map(_met, found.budgets), right=_FIGURES)
        rates = ("RATE LIMIT", "PER MINUTE", "LEFT", "FITS")
        output.table(rates, map(_rate, found.rate_limits), right=rates[1:3])


def _row(budget: Budget) -> list[str]:
    subject = budget.workspace_id or budget.user_id or budget.api_key_id
    if not subject and budget.scope not in (BudgetScope.BUDGET_SCOPE_ORG, BudgetScope.BUDGET_SCOPE_ALLOWANCE):
        subject = "each"
    return [*_terms(budget, subject), *_figures(budget.limit, budget.status if budget.HasField("status") else None)]


def _met(budget: BudgetLimit) -> list[str]:
    return [*_terms(budget, ""), *_figures(budget.limit, budget.status), "yes" if budget.fits else "no"]


def _terms(budget: Budget | BudgetLimit, subject: str) -> list[str]:
    scope = BudgetScope.Name(budget.scope).removeprefix("BUDGET_SCOPE_").lower().replace("_", "-")
    window = BudgetWindow.Name(budget.window).removeprefix("BUDGET_WINDOW_").lower()
    return [budget.budget_id, f"{scope} {subject}".rstrip(), window, "hard" if budget.hard else "soft"]


def _figures(limit: Money, status: BudgetStatus | None) -> list[str]:
    if status is None:
        return [output.money(limit), "", "", "", ""]
    amounts = (limit, status.settled, status.reserved, status.remaining)
    return [*map(output.money, amounts), output.time(status.end_time)]


def _rate(rate: RateLimit) -> list[str]:
    return [rate.name, f"{rate.limit:,}", f"{rate.remaining:,}", "yes" if rate.fits else "no"]
