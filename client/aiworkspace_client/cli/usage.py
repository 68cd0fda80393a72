"""aiws usage: tokens and costs."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer

from aiworkspace.v1.usage_pb2 import GetUsageResponse
from aiworkspace_client.cli import output
from aiworkspace_client.cli.account import Json
from aiworkspace_client.cli.orgs import Org
from aiworkspace_client.cli.session import connected
from aiworkspace_client.types import UsageDimension, UsageRow, UsageTotal

_NUMBERS = ("REQUESTS", "INPUT", "CACHED", "OUTPUT", "COST")


class Dimension(StrEnum):
    """UsageDimension for the command line."""

    WORKSPACE = "workspace"
    USER = "user"
    MODEL = "model"
    DAY = "day"
    HOUR = "hour"
    API_KEY = "api-key"


def usage(
    ctx: typer.Context,
    by: Annotated[list[Dimension] | None, typer.Option("--by", help="What to group by. Repeat it for more.")] = None,
    days: Annotated[int, typer.Option(min=0, max=36_500, help="Only the last so many days. 0 means all.")] = 30,
    mine: Annotated[bool, typer.Option("--mine", help="Only your own, which needs no permission.")] = False,
    workspace: Annotated[str, typer.Option("--workspace", "-w", help="Only this workspace.")] = "",
    org: Org = "",
    json: Json = False,
) -> None:
    """Show an organization's tokens and costs, by model and day unless asked otherwise."""
    dimensions = list(dict.fromkeys(by or [Dimension.MODEL, Dimension.DAY]))
    with connected(ctx) as session:
        pager = session.client.usage.get(
            session.org_id(org),
            workspace_id=workspace,
            user_id=session.client.auth.get_me().user_id if mine else "",
            start_time=datetime.now(UTC) - timedelta(days=days) if days else None,
            group_by=[UsageDimension.Value(f"USAGE_DIMENSION_{each.name}") for each in dimensions],
            page_size=1000,
        )
        pages = list(pager.pages())
        rows = [row for page in pages for row in page.rows]
        if json:
            return output.as_json(GetUsageResponse(total=pages[0].total, rows=rows))
        show(dimensions, rows, pages[0].total)


def show(dimensions: list[Dimension], rows: list[UsageRow], total: UsageTotal) -> None:
    """Print a row for every group and one for the total."""
    lines = [[*(_group(row, each) for each in dimensions), *numbers(row.total)] for row in rows]
    lines.append(["total", *[""] * (len(dimensions) - 1), *numbers(total)])
    output.table([*(each.upper() for each in dimensions), *_NUMBERS], lines, right=_NUMBERS)


def numbers(total: UsageTotal) -> list[str]:
    """Return the cells of a total."""
    counts = (
        total.request_count,
        total.tokens.input_tokens,
        total.tokens.cached_input_tokens,
        total.tokens.output_tokens,
    )
    return [*(f"{count:,}" for count in counts), output.money(total.cost)]


def _group(row: UsageRow, dimension: Dimension) -> str:
    match dimension:
        case Dimension.WORKSPACE:
            return row.workspace_id
        case Dimension.USER:
            return row.user_id
        case Dimension.MODEL:
            return row.model
        case Dimension.DAY:
            return row.day
        case Dimension.HOUR:
            return row.hour
        case Dimension.API_KEY:
            return row.api_key_id or "none"
